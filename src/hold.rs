//! The hold: whether a worker may be started on this host.
//!
//! Like the stop request it is a level that every phase of the runner's life looks at: start-up, the supervisor, what
//! follows a run. The drain marker keeps it over restarts of the runner and boots.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::error_chain::ErrorChain;
use crate::host::blocking::{Lane, Unanswered};
use crate::host::drain_marker::{self, HoldRecord, TIME};
use crate::host::private_file;

/// The present hold as observers see it; `None`: a worker may be started.
pub type Held = Option<Arc<HoldRecord>>;

/// The reason why a hold is not on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HoldError {
    /// There is no state directory and no cache.
    #[error(
        "there is no state directory (and no cacheOverRestarts) for the drain marker; set STATE_DIRECTORY (systemd's StateDirectory=)"
    )]
    NoPlace,
    /// The marker cannot be written or removed.
    #[error("{0}")]
    Marker(String),
}

/// The hold of this host. Clones share one value.
#[derive(Debug, Clone)]
pub struct Hold {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    marker: Option<PathBuf>,
    lane: Lane,
    level: watch::Sender<Held>,
    /// Changes of the marker come one after the other.
    changing: tokio::sync::Mutex<()>,
    /// The record for a `drain --once` whose worker reboots the host.
    drained_once: Mutex<Option<HoldRecord>>,
}

impl Hold {
    /// A hold that is kept in `marker`; `None`: there is no place for one.
    pub fn new(marker: Option<PathBuf>, lane: Lane) -> Self {
        let level = watch::Sender::new(None);
        let shared = Shared {
            marker,
            lane,
            level,
            changing: tokio::sync::Mutex::default(),
            drained_once: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the marker's path.
    pub fn marker(&self) -> Option<&Path> {
        self.shared.marker.as_deref()
    }

    /// Returns a receiver of the present hold and of every change.
    pub fn observe(&self) -> watch::Receiver<Held> {
        self.shared.level.subscribe()
    }

    /// Returns the present hold.
    pub fn current(&self) -> Held {
        self.shared.level.borrow().clone()
    }

    /// Takes over what the marker says.
    ///
    /// # Errors
    ///
    /// The file in the marker's place belongs to another user or is not a regular file.
    pub async fn load(&self) -> Result<Held, private_file::Error> {
        let Some(path) = self.marker() else { return Ok(None) };
        let marker = path.to_owned();
        match self.shared.lane.at(path, TIME, move || drain_marker::read(&marker)).await {
            Ok(found) => {
                let held = found?.map(Arc::new);
                self.shared.level.send_if_modified(|level| std::mem::replace(level, held.clone()) != held);
                Ok(held)
            }
            Err(cause) => {
                warn!(name: "drain-marker-unread", error = %cause, "cannot look for the mark of a drain: starting as if there was none");
                Ok(None)
            }
        }
    }

    /// Sets the marker, and from then on the hold. A record with a reason replaces an earlier one; without a reason the
    /// earlier one stays.
    ///
    /// # Errors
    ///
    /// The marker is not on the disk; nothing holds that did not before.
    pub async fn set(&self, record: HoldRecord) -> Result<Arc<HoldRecord>, HoldError> {
        let path = self.marker().ok_or(HoldError::NoPlace)?;
        let _changing = self.shared.changing.lock().await;
        if let (Some(earlier), None) = (self.current(), &record.reason) {
            return Ok(earlier);
        }
        let (marker, written) = (path.to_owned(), record.clone());
        let set = move || {
            // Another user's file in its place would keep the next start from reading it.
            drain_marker::read(&marker).map_err(|cause| cause.to_string())?;
            drain_marker::write(&marker, &written).map_err(|cause| ErrorChain(&cause).to_string())
        };
        answered(self.shared.lane.at(path, TIME, set).await)?;
        let record = Arc::new(record);
        self.shared.level.send_replace(Some(record.clone()));
        let HoldRecord { by, reason, .. } = &*record;
        info!(name: "held",
            mark = %path.display(), by, reason,
            "held: no worker is started on this host until `start-worker resume`"
        );
        Ok(record)
    }

    /// Ends the hold: removes the marker. Returns false if nothing held.
    ///
    /// # Errors
    ///
    /// The marker cannot be removed; the host still holds.
    pub async fn release(&self) -> Result<bool, HoldError> {
        let path = self.marker().ok_or(HoldError::NoPlace)?;
        let _changing = self.shared.changing.lock().await;
        if self.current().is_none() {
            return Ok(false);
        }
        let marker = path.to_owned();
        let removed = self.shared.lane.at(path, TIME, move || drain_marker::remove(&marker)).await;
        let removed = removed.map(|removed| removed.map_err(|cause| ErrorChain(&cause).to_string()));
        if let Err(cause) = answered(removed) {
            error!(name: "resume-failed",
                error = %cause,
                "cannot resume, still holding; remove the mark and restart the service"
            );
            return Err(cause);
        }
        self.shared.level.send_replace(None);
        info!(name: "resumed", mark = %path.display(), "resumed: the mark is removed, and a worker may be started");
        Ok(true)
    }

    /// Waits until nothing holds.
    pub async fn released(&self) {
        let mut level = self.observe();
        if level.wait_for(Option::is_none).await.is_err() {
            // Not reached: `self` keeps the channel open.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the host holds where it did not, or no longer does.
    pub async fn beyond(&self, seen: bool) -> bool {
        let mut level = self.observe();
        match level.wait_for(|held| held.is_some() != seen).await {
            Ok(held) => held.is_some(),
            // Not reached, as above.
            Err(_) => std::future::pending().await,
        }
    }

    /// Notes who asked for a `drain --once`.
    pub fn note_drain_once(&self, record: HoldRecord) {
        self.shared.drained_once.lock().unwrap_or_else(PoisonError::into_inner).replace(record);
    }

    /// After a `drain --once` the worker reboots the host: sets the marker. Where that fails, the log says what will
    /// happen after the boot.
    pub async fn over_reboot(&self) {
        let record = self.shared.drained_once.lock().unwrap_or_else(PoisonError::into_inner).take();
        match self.set(record.unwrap_or_default()).await {
            Ok(_) => info!(name: "drain-noted",
                "drained, and the worker reboots the host: no worker is started after the boot until `start-worker resume`"
            ),
            Err(HoldError::NoPlace) => warn!(name: "drain-not-noted",
                "drained, and the worker reboots the host: it will start again after the boot, for there is no state directory (and no cacheOverRestarts) to note the drain in"
            ),
            Err(cause) => error!(name: "drain-not-noted",
                error = %cause, "cannot note the drain: the worker will start again after the boot"
            ),
        }
    }
}

fn answered(result: Result<Result<(), String>, Unanswered>) -> Result<(), HoldError> {
    match result {
        Ok(done) => done.map_err(HoldError::Marker),
        Err(cause) => Err(HoldError::Marker(cause.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn record(by: &str, reason: Option<&str>) -> HoldRecord {
        HoldRecord::new(Some(by), Timestamp::from_second(1_000).unwrap(), reason)
    }

    fn held(folder: &tempfile::TempDir) -> Hold {
        Hold::new(Some(folder.path().join("held")), Lane::default())
    }

    #[tokio::test]
    async fn a_hold_is_on_the_disk_before_it_is_confirmed_and_survives_the_runner() {
        let folder = tempfile::tempdir().unwrap();
        let hold = held(&folder);
        assert_eq!(hold.load().await.unwrap(), None);
        let set = hold.set(record("alice", Some("new disk"))).await.unwrap();
        assert_eq!(hold.clone().current(), Some(set.clone()));
        let next = held(&folder);
        assert_eq!(next.load().await.unwrap(), Some(set));
        assert_eq!(next.release().await, Ok(true));
        assert_eq!(next.release().await, Ok(false));
        assert_eq!(held(&folder).load().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_later_request_replaces_the_record_only_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let hold = held(&folder);
        hold.set(record("alice", Some("new disk"))).await.unwrap();
        assert_eq!(*hold.set(record("bob", None)).await.unwrap(), record("alice", Some("new disk")));
        assert_eq!(
            *hold.set(record("bob", Some("it burns"))).await.unwrap(),
            record("bob", Some("it burns"))
        );
    }

    #[tokio::test]
    async fn a_marker_that_cannot_be_removed_still_holds() {
        let folder = tempfile::tempdir().unwrap();
        let hold = held(&folder);
        hold.set(record("alice", None)).await.unwrap();
        std::fs::remove_file(folder.path().join("held")).unwrap();
        std::fs::create_dir(folder.path().join("held")).unwrap();
        let cause = hold.release().await.unwrap_err();
        assert!(cause.to_string().contains("/held: "), "{cause}");
        assert!(hold.current().is_some());
    }

    #[tokio::test]
    async fn another_users_file_in_the_markers_place_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("held")).unwrap();
        let hold = held(&folder);
        hold.set(record("alice", None)).await.unwrap_err();
        assert_eq!(hold.current(), None);
    }

    #[tokio::test]
    async fn without_a_place_nothing_holds() {
        let hold = Hold::new(None, Lane::default());
        assert_eq!(hold.set(record("alice", None)).await, Err(HoldError::NoPlace));
        assert_eq!(hold.load().await.unwrap(), None);
    }
}
