//! Deregistration of a cloud machine: marks it in the cache, calls removeWorker, and marks the confirmation.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use super::Registrar;
use crate::clock::Clock;
use crate::run_spec::Object;
use crate::run_spec::cache::{CacheWriter, CachedRun, Leaving};
use crate::taskcluster::Effort;

/// Time limit of removeWorker.
const TIME: Duration = Duration::from_secs(60);

/// Time limit for removing a cache that could not be marked. A disk that does not answer has already been waited for.
const CACHE_GONE: Duration = Duration::from_secs(1);

/// The cached run, which renewals change. Locked only briefly.
pub type Current = Arc<Mutex<CachedRun>>;

/// Builds the complete worker configuration of a run, including the worker implementation's settings.
pub type Whole = Arc<dyn Fn(&CachedRun) -> Object + Send + Sync>;

/// Deregisters this machine's worker, and records the progress in the cache.
#[derive(Clone)]
pub struct Deregistration {
    /// `None`: worker-manager does not know this worker.
    registrar: Option<Registrar>,
    current: Current,
    whole: Whole,
    cache_writer: CacheWriter,
    clock: Arc<dyn Clock>,
}

/// The result of a deregistration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deregistered {
    /// worker-manager removes the machine.
    Confirmed,
    /// worker-manager does not know this worker, and removes nothing.
    Unknown,
    /// worker-manager did not answer, or refused.
    Failed,
}

impl Deregistration {
    pub fn new(
        registrar: Option<Registrar>,
        current: Current,
        whole: Whole,
        cache_writer: CacheWriter,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { registrar, current, whole, cache_writer, clock }
    }

    /// The client for worker-manager, with the latest credentials; `None`: worker-manager does not know this worker.
    pub fn registrar(&self) -> Option<(&Registrar, CachedRun)> {
        Some((self.registrar.as_ref()?, self.locked(|cached| cached.clone())))
    }

    /// Marks the cached run as that of a machine that leaves, so that no further worker starts on it. Then asks
    /// worker-manager to remove the worker, for at most a minute, and marks the confirmation. `reason` is stored with
    /// the mark, for people.
    pub async fn deregister(&self, reason: &str) -> Deregistered {
        let now = self.clock.now();
        let already = self.locked(|cached| {
            let leaving = cached.leaving.get_or_insert_with(|| Leaving::new(now, reason.to_owned()));
            leaving.deregistered.is_some()
        });
        self.save().await;
        let Some(registrar) = &self.registrar else {
            info!(name: "deregistered-unknown", reason, "worker-manager does not know this worker: its host is shut down");
            self.mark(|leaving, now| leaving.deregistered = Some(now)).await;
            return Deregistered::Unknown;
        };
        if already {
            return Deregistered::Confirmed;
        }
        let credentials = self.locked(|cached| cached.run.credentials.clone());
        info!(name: "deregistration-started", reason, "removing the worker");
        match registrar.client().remove_worker(&credentials, registrar.name(), Effort::For(TIME)).await {
            Ok(()) => info!(name: "deregistered", "worker removed: worker-manager takes the machine away"),
            // Another caller has already removed the worker.
            Err(cause) if cause.is_not_found() => {
                info!(name: "deregistered", "worker had been removed already");
            }
            Err(cause) => {
                warn!(name: "deregistration-failed", error = %cause, "the worker cannot be removed: its host is shut down");
                return Deregistered::Failed;
            }
        }
        self.mark(|leaving, now| leaving.deregistered = Some(now)).await;
        Deregistered::Confirmed
    }

    /// Marks that the host has been asked to shut down. Must follow [`Deregistration::deregister`].
    pub async fn shutdown_requested(&self) {
        self.mark(|leaving, now| {
            leaving.shutdown_requested.get_or_insert(now);
        })
        .await;
    }

    async fn mark(&self, step: impl FnOnce(&mut Leaving, jiff::Timestamp)) {
        let now = self.clock.now();
        self.locked(|cached| cached.leaving.as_mut().map(|leaving| step(leaving, now)));
        self.save().await;
    }

    async fn save(&self) {
        let encoded = self.locked(|cached| {
            let whole = (self.whole)(cached);
            cached.encode(&whole)
        });
        if !self.cache_writer.save(encoded).await {
            // Removing the cache is possible even on a full disk. Without a cache the next start is refused, because a
            // machine cannot register twice.
            warn!(
                "the removal cannot be noted in the cached run: that is removed, so that no worker starts with it"
            );
            let _ = tokio::time::timeout(CACHE_GONE, self.cache_writer.remove()).await;
        }
    }

    fn locked<T>(&self, look: impl FnOnce(&mut CachedRun) -> T) -> T {
        look(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Omits the run, because it contains secrets.
impl std::fmt::Debug for Deregistration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.registrar.is_some();
        f.debug_struct("Deregistration").field("known_to_worker_manager", &known).finish_non_exhaustive()
    }
}
