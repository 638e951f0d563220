//! One runner for each worker, and for each cache; what one that was killed has left.

use tracing::{debug, warn};

use super::{PrepareError, Preparer};
use crate::chain::Chain;
use crate::host::atomic::{self, parent_of};
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
            Err(cause @ LockError::Unavailable { .. }) => {
                warn!(error = %Chain(&cause), "a second runner for this worker would not be noticed");
            }
            Err(cause) => return Err(PrepareError::Locked(cause)),
        }
        Ok(())
    }

    /// Two runners with one cache are one too many, also where they run different workers. Where no lock can be made,
    /// as in a directory that cannot be written, this goes on without one.
    pub(super) async fn lock_cache(&mut self) -> Result<(), PrepareError> {
        let Some(path) = self.cache_path().filter(|_| self.cache_lock.is_none()) else { return Ok(()) };
        let path = path.to_owned();
        match tokio::task::spawn_blocking(move || Lock::take_for_cache(&path)).await? {
            Ok(lock) => self.cache_lock = Some(lock),
            Err(cause @ LockError::Unavailable { .. }) => {
                debug!(error = %cause, "a second runner with this cache would not be noticed");
            }
            Err(cause) => return Err(PrepareError::Locked(cause)),
        }
        Ok(())
    }

    /// Removes what an earlier start that was killed while it wrote may have left: there are credentials in it.
    pub(super) async fn sweep(&self) -> Result<(), PrepareError> {
        if self.dummy() {
            return Ok(());
        }
        let written = [self.cache_path(), self.config.worker.implementation.config_path()];
        let folders: Vec<_> = written.into_iter().flatten().map(|path| parent_of(path).to_owned()).collect();
        let sweeping = move || folders.iter().for_each(|folder| atomic::sweep(folder));
        Ok(tokio::task::spawn_blocking(sweeping).await?)
    }
}
