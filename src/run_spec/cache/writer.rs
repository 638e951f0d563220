//! The single writer of a cache file. Writes the latest snapshot and retries on failure.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::error_chain::ErrorChain;
use crate::host::atomic::{self, WriteError};
use crate::host::blocking::Lane;

#[cfg(test)]
mod tests;

/// Delay of a retry after a failure.
const AGAIN: Duration = Duration::from_secs(60);
/// Time limit for a caller to wait for a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes a cache file. Clones share the writer. Changes that are not on the disk are lost when the last clone is
/// dropped, so [`flush`](Self::flush) must be called first.
#[derive(Debug, Clone)]
pub struct CacheWriter {
    /// `None`: no cache is configured.
    writer: Option<Arc<Writer>>,
}

#[derive(Debug)]
struct Writer {
    path: Arc<Path>,
    desired: watch::Sender<Revision>,
    done: watch::Receiver<Progress>,
}

/// The desired state of the file.
#[derive(Debug)]
enum DesiredState {
    Holds(SecretString),
    Gone,
}

/// The latest desired state, which supersedes earlier ones.
#[derive(Debug, Clone, Default)]
struct Revision {
    /// The number of requests so far.
    number: u64,
    state: Option<Arc<DesiredState>>,
}

/// The progress of the requests.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// The number of the latest attempted request.
    tried: u64,
    /// The number of the latest request that is on the disk.
    met: u64,
}

impl DesiredState {
    /// Writes or removes the file. Blocks on the disk.
    fn carry_out(&self, path: &Path) -> Result<(), WriteError> {
        match self {
            Self::Holds(snapshot) => super::write(path, snapshot),
            Self::Gone => atomic::remove(path),
        }
    }
}

impl CacheWriter {
    /// Starts the writer of the cache at `path`; `None`: there is no cache, and every request succeeds. Must be called
    /// within the runtime on which the writer's task will run.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { writer: path.map(|path| Arc::new(Writer::start(path.into(), DesiredState::carry_out))) }
    }

    /// Writes the output of [`CachedRun::encode`](super::CachedRun::encode). Returns true if it, or a later request, is
    /// on the disk. Otherwise the failure is logged, and the latest snapshot is retried every minute.
    pub async fn save(&self, snapshot: SecretString) -> bool {
        self.ask(DesiredState::Holds(snapshot)).await
    }

    /// Writes a newer snapshot of a cached run, as [`save`](Self::save) does. After [`remove`](Self::remove) there is
    /// no cached run, and nothing is written. Returns true if the last request is on the disk.
    pub async fn renew(&self, snapshot: SecretString) -> bool {
        let Some(writer) = &self.writer else { return true };
        let desired = writer.desired.borrow().clone();
        match desired.state.as_deref() {
            Some(DesiredState::Gone) => writer.answer(desired.number).await,
            Some(DesiredState::Holds(_)) | None => self.save(snapshot).await,
        }
    }

    /// Removes the file, and discards snapshots that have not been written. Returns true if the file is gone. Otherwise
    /// the failure is logged, and the removal is retried every minute.
    pub async fn remove(&self) -> bool {
        self.ask(DesiredState::Gone).await
    }

    /// Retries pending changes at once. Returns true if all requests are on the disk.
    pub async fn flush(&self) -> bool {
        let Some(writer) = &self.writer else { return true };
        let Progress { tried, met } = *writer.done.borrow();
        let mut number = met;
        writer.desired.send_if_modified(|desired| {
            // A request that has not been attempted yet is attempted now anyway.
            let again = met < desired.number && desired.number <= tried;
            desired.number += u64::from(again);
            number = desired.number;
            again
        });
        writer.answer(number).await
    }

    /// Makes a request. It is carried out even if the caller stops waiting for the result.
    async fn ask(&self, state: DesiredState) -> bool {
        match &self.writer {
            Some(writer) => writer.answer(writer.state(state)).await,
            None => true,
        }
    }
}

impl Writer {
    fn start<F>(path: Arc<Path>, carry_out: F) -> Self
    where
        F: Fn(&DesiredState, &Path) -> Result<(), WriteError> + Clone + Send + 'static,
    {
        let (desired, newest) = watch::channel(Revision::default());
        let (report, done) = watch::channel(Progress::default());
        let task = Task { path: path.clone(), newest, report, failing: false };
        tokio::spawn(task.run(carry_out));
        Self { path, desired, done }
    }

    /// Supersedes earlier requests. Returns the number of the new one.
    fn state(&self, state: DesiredState) -> u64 {
        let mut number = 0;
        self.desired.send_modify(|desired| {
            desired.number += 1;
            number = desired.number;
            desired.state = Some(Arc::new(state));
        });
        number
    }

    /// Waits for an attempt at this revision or a later one. Returns true if it is on the disk.
    async fn answer(&self, number: u64) -> bool {
        let mut done = self.done.clone();
        let tried = done.wait_for(|done| done.tried >= number);
        match tokio::time::timeout(PATIENCE, tried).await {
            Ok(Ok(done)) => done.met >= number,
            Ok(Err(_)) => {
                error!(name: "cache-write-failed", path = %self.path.display(), "the cached run is not kept any longer: its writer has failed");
                false
            }
            Err(_) => {
                warn!(name: "cache-write-failed",
                    path = %self.path.display(), waited = ?PATIENCE,
                    "the disk does not answer, going on without the cached run; it is written when the disk does"
                );
                false
            }
        }
    }
}

/// The writer's task. It ends when the last handle is dropped.
struct Task {
    path: Arc<Path>,
    newest: watch::Receiver<Revision>,
    report: watch::Sender<Progress>,
    /// True if a failure was logged and has not ended.
    failing: bool,
}

impl Task {
    async fn run<F>(mut self, carry_out: F)
    where
        F: Fn(&DesiredState, &Path) -> Result<(), WriteError> + Clone + Send + 'static,
    {
        let lane = Lane::default();
        loop {
            let Progress { tried, met } = *self.report.borrow();
            tokio::select! {
                changed = self.newest.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN), if met < tried => {}
            }
            let Revision { number, state } = self.newest.borrow_and_update().clone();
            let Some(state) = state else { continue };
            let result = {
                let (state, path, carry_out) = (state.clone(), self.path.clone(), carry_out.clone());
                lane.at(&self.path, AGAIN, move || carry_out(&state, &path)).await
            };
            let result = match result {
                Ok(written) => written.map_err(|cause| ErrorChain(&cause).to_string()),
                Err(fault) => Err(fault.to_string()),
            };
            self.tell(&state, &result);
            self.report
                .send_replace(Progress { tried: number, met: if result.is_ok() { number } else { met } });
        }
    }

    /// Logs the beginning and the end of a failure.
    fn tell(&mut self, state: &DesiredState, result: &Result<(), String>) {
        let path = self.path.display();
        let was_failing = std::mem::replace(&mut self.failing, result.is_err());
        match (state, result) {
            (_, Ok(())) if !was_failing => debug!(%path, "the cached run is on the disk"),
            (DesiredState::Holds(_), Ok(())) => {
                info!(name: "cache-written-again", %path, "the cached run can be written again, and is on the disk");
            }
            (DesiredState::Gone, Ok(())) => info!(%path, "the cached run is removed"),
            (_, Err(error)) if was_failing => debug!(%path, error, "the cached run still cannot be written"),
            (DesiredState::Holds(_), Err(error)) => warn!(name: "cache-write-failed",
                %path, error,
                "the cached run cannot be written: after a restart the worker would start with an older one, or none; \
                 make room or repair it, it is tried again every minute"
            ),
            (DesiredState::Gone, Err(error)) => warn!(name: "cache-write-failed",
                %path, error,
                "the cached run cannot be removed: after a restart the worker would start with it; \
                 remove it, it is tried again every minute"
            ),
        }
    }
}
