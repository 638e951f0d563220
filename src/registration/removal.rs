//! How a cloud's machine leaves worker-manager: the mark in its cache, then removeWorker; once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use super::Registrar;
use crate::clock::Clock;
use crate::run::Object;
use crate::run::cache::{CachedRun, Keeper, Removed};
use crate::taskcluster::Effort;

/// How long removeWorker is tried.
const TIME: Duration = Duration::from_secs(60);

/// How long the cache may take to be gone, where it could not be marked: a disk that does not answer was waited for.
const CACHE_GONE: Duration = Duration::from_secs(1);

/// The run as it is cached, which renewals change. Locked for moments only.
pub type Current = Arc<Mutex<CachedRun>>;

/// Makes the whole worker configuration of a run, with what the worker's implementation sets.
pub type Whole = Arc<dyn Fn(&CachedRun) -> Object + Send + Sync>;

/// What removes this machine's worker. Clones share whether that was done.
#[derive(Clone)]
pub struct Removal {
    /// `None`: worker-manager does not know this worker.
    registrar: Option<Registrar>,
    current: Current,
    whole: Whole,
    keeper: Keeper,
    clock: Arc<dyn Clock>,
    begun: Arc<AtomicBool>,
}

/// What has come of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// worker-manager removes the machine.
    WorkerManager,
    /// Nothing: the host has to be shut down.
    Nothing,
    /// It was begun before: whoever did sees to the rest.
    Already,
}

impl Removal {
    /// For the worker of this run.
    pub fn new(
        registrar: Option<Registrar>,
        current: Current,
        whole: Whole,
        keeper: Keeper,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { registrar, current, whole, keeper, clock, begun: Arc::default() }
    }

    /// Marks the cached run as removed (or removes it, where it cannot be written), so that no worker ever starts on this
    /// machine again; then asks worker-manager to remove the worker, for a minute at most. `reason`: for the mark, and for
    /// people.
    pub async fn remove(&self, reason: &str) -> Left {
        if self.begun.swap(true, Ordering::AcqRel) {
            return Left::Already;
        }
        let marked = self.mark(reason);
        if !self.keeper.save(marked).await {
            // On a full disk that is possible. Without it the next start is refused, for nobody registers twice.
            warn!(
                "the removal cannot be noted in the cached run: that is removed, so that no worker starts with it"
            );
            let _ = tokio::time::timeout(CACHE_GONE, self.keeper.remove()).await;
        }
        let Some(registrar) = &self.registrar else {
            info!(reason, "worker-manager does not know this worker: its host is shut down");
            return Left::Nothing;
        };
        let credentials = self.locked(|cached| cached.run.credentials.clone());
        info!(reason, "removing the worker");
        match registrar.client().remove_worker(&credentials, registrar.name(), Effort::For(TIME)).await {
            Ok(()) => {
                info!("worker removed: worker-manager takes the machine away");
                Left::WorkerManager
            }
            // Somebody was faster.
            Err(cause) if cause.is_not_found() => {
                info!("worker had been removed already");
                Left::WorkerManager
            }
            Err(cause) => {
                warn!(error = %cause, "the worker cannot be removed: its host is shut down");
                Left::Nothing
            }
        }
    }

    fn mark(&self, reason: &str) -> secrecy::SecretString {
        let at = self.clock.now();
        self.locked(|cached| {
            cached.removed = Some(Removed { at, reason: reason.to_owned() });
            let whole = (self.whole)(cached);
            cached.encode(&whole)
        })
    }

    fn locked<T>(&self, look: impl FnOnce(&mut CachedRun) -> T) -> T {
        look(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Leaves the run out: it holds secrets.
impl std::fmt::Debug for Removal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.registrar.is_some();
        f.debug_struct("Removal").field("known_to_worker_manager", &known).finish_non_exhaustive()
    }
}
