//! The one writer of a cache file: it writes the newest snapshot, in the order of asking, and does not give up.

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

/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// How long somebody who asked is kept waiting by a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps a cache file. Clones keep the same one. What it has not brought to the disk is lost when the last of them is
/// dropped: [`flush`](Self::flush) first.
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

/// What the file should be.
#[derive(Debug)]
enum DesiredState {
    Holds(SecretString),
    Gone,
}

/// The newest desired state, which supersedes earlier ones.
#[derive(Debug, Clone, Default)]
struct Revision {
    /// How many times something was asked for.
    number: u64,
    state: Option<Arc<DesiredState>>,
}

/// How far the wishes are carried out.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// The newest that was tried.
    tried: u64,
    /// The newest that is on the disk.
    met: u64,
}

impl DesiredState {
    /// Blocks on the disk.
    fn carry_out(&self, path: &Path) -> Result<(), WriteError> {
        match self {
            Self::Holds(snapshot) => super::write(path, snapshot),
            Self::Gone => atomic::remove(path),
        }
    }
}

impl CacheWriter {
    /// Keeps the cache at `path`; `None`: there is none to keep, and all that is asked for succeeds. Must be called
    /// within a runtime, on which it lives.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { writer: path.map(|path| Arc::new(Writer::start(path.into(), DesiredState::carry_out))) }
    }

    /// Writes what [`CachedRun::encode`](super::CachedRun::encode) made. Whether it, or what was asked for later, is
    /// on the disk now. If not, that was logged, and the newest snapshot is tried again every minute.
    pub async fn save(&self, snapshot: SecretString) -> bool {
        self.ask(DesiredState::Holds(snapshot)).await
    }

    /// Writes a newer snapshot of what is cached, as [`save`](Self::save) does; after [`remove`](Self::remove) nothing is,
    /// and nothing is written. Whether what was asked for last is on the disk now.
    pub async fn renew(&self, snapshot: SecretString) -> bool {
        let Some(writer) = &self.writer else { return true };
        let desired = writer.desired.borrow().clone();
        match desired.state.as_deref() {
            Some(DesiredState::Gone) => writer.answer(desired.number).await,
            Some(DesiredState::Holds(_)) | None => self.save(snapshot).await,
        }
    }

    /// Removes the file, and forgets snapshots that have not been written. Whether it is gone now. If not, that was
    /// logged, and it is tried again every minute.
    pub async fn remove(&self) -> bool {
        self.ask(DesiredState::Gone).await
    }

    /// Tries what is not on the disk once more, at once. Whether all that was asked for is on the disk now.
    pub async fn flush(&self) -> bool {
        let Some(writer) = &self.writer else { return true };
        let Progress { tried, met } = *writer.done.borrow();
        let mut number = met;
        writer.desired.send_if_modified(|desired| {
            // What has not been tried yet is tried now anyway.
            let again = met < desired.number && desired.number <= tried;
            desired.number += u64::from(again);
            number = desired.number;
            again
        });
        writer.answer(number).await
    }

    /// What is asked for is carried out even if nobody waits for the answer.
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

    /// Takes the place of what was asked for before. Its number.
    fn state(&self, state: DesiredState) -> u64 {
        let mut number = 0;
        self.desired.send_modify(|desired| {
            desired.number += 1;
            number = desired.number;
            desired.state = Some(Arc::new(state));
        });
        number
    }

    /// Waits until this revision, or a later one, was tried. Returns whether it is on the disk.
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

/// The writer's task: ends when nobody can ask any longer.
struct Task {
    path: Arc<Path>,
    newest: watch::Receiver<Revision>,
    report: watch::Sender<Progress>,
    /// Whether a failure was told and has not ended.
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

    /// A failure is told once, and its end.
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
