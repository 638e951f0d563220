//! One runner for each worker.

use tracing::warn;

use super::{PrepareError, Preparer};
use crate::host::lock::{Lock, LockError};
use crate::run::WorkerIdentity;

impl Preparer {
    /// Two runners for one worker are one too many. Where no lock can be made, one goes on with a warning.
    pub(super) fn lock(&mut self, identity: &WorkerIdentity) -> Result<(), PrepareError> {
        if self.lock.is_some() || self.dummy() {
            return Ok(());
        }
        let name = format!("{} {} {}", identity.worker_pool_id, identity.worker_group, identity.worker_id);
        let Some(folder) = self.runtime_directory.as_deref() else {
            warn!(
                "no runtime directory: a second runner for this worker would not be noticed (set RUNTIME_DIRECTORY)"
            );
            return Ok(());
        };
        match Lock::take(folder, &name) {
            Ok(lock) => self.lock = Some(lock),
            Err(cause @ LockError::Held { .. }) => return Err(PrepareError::Locked(cause)),
            Err(cause @ LockError::Unavailable { .. }) => {
                warn!(error = %cause, "a second runner for this worker would not be noticed");
            }
        }
        Ok(())
    }
}
