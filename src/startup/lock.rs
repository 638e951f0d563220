//! Locks that allow one runner for each worker and for each cache; removal of a killed runner's temporary files.

use std::time::Duration;

use tracing::{debug, warn};

use super::{PrepareError, Preparer};
use crate::error_chain::ErrorChain;
use crate::host::atomic::{self, parent_of};
use crate::host::lock::{Lock, LockError};
use crate::run_spec::WorkerIdentity;

/// Time limit of the runtime directory's file system.
const TIME: Duration = Duration::from_secs(10);

impl Preparer {
    /// Prevents two runners for one worker. If the lock file cannot be created, the start continues with a warning.
    pub(super) async fn lock(&mut self, identity: &WorkerIdentity) -> Result<(), PrepareError> {
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
        let place = folder.to_owned();
        let taken = self.lanes.lock.at(folder, TIME, move || Lock::take(&place, &name)).await;
        let cause = match taken {
            Ok(Ok(lock)) => {
                self.lock = Some(lock);
                return Ok(());
            }
            Ok(Err(cause @ LockError::Unavailable { .. })) => ErrorChain(&cause).to_string(),
            Ok(Err(cause)) => return Err(PrepareError::Locked(cause)),
            Err(cause) => cause.to_string(),
        };
        warn!(error = cause, "a second runner for this worker would not be noticed");
        Ok(())
    }

    /// Prevents two runners with one cache, even if they run different workers. If the lock file cannot be created, for
    /// example in a read-only directory, the start continues without a lock.
    pub(super) async fn lock_cache(&mut self) -> Result<(), PrepareError> {
        let Some(path) = self.cache_path().filter(|_| self.cache_lock.is_none()) else { return Ok(()) };
        let path = path.to_owned();
        match self.lanes.cache.at(&path.clone(), TIME, move || Lock::take_for_cache(&path)).await? {
            Ok(lock) => self.cache_lock = Some(lock),
            Err(cause @ LockError::Unavailable { .. }) => {
                debug!(error = %cause, "a second runner with this cache would not be noticed");
            }
            Err(cause) => return Err(PrepareError::Locked(cause)),
        }
        Ok(())
    }

    /// Removes the temporary files of an earlier start that was killed while it wrote, because they contain
    /// credentials.
    pub(super) async fn sweep(&self) -> Result<(), PrepareError> {
        if self.dummy() {
            return Ok(());
        }
        let lanes = &self.lanes;
        let config_path = self.config.worker.implementation.config_path();
        for (lane, path) in [(&lanes.cache, self.cache_path()), (&lanes.worker_config, config_path)] {
            let Some(folder) = path.map(|path| parent_of(path).to_owned()) else { continue };
            lane.at(&folder.clone(), TIME, move || atomic::sweep(&folder)).await?;
        }
        Ok(())
    }
}
