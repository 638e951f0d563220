//! A host that an operator holds: no worker is started until it is resumed.

use tracing::warn;

use crate::hold::Hold;
use crate::host::drain_marker::HoldRecord;
use crate::stop::StopSignal;

/// The end of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The worker may be started.
    Resumed,
    /// The runner was told to end.
    Ended,
}

/// Starts nothing while the host is held: until it is resumed, or the runner is told to end.
pub async fn hold(hold: &Hold, stop: &StopSignal) -> Released {
    let HoldRecord { by, since, reason } = &*hold.current().unwrap_or_default();
    let mark = hold.marker().map(|path| tracing::field::display(path.display()));
    warn!(name: "holding",
        mark,
        since = since.map(tracing::field::display),
        by,
        reason,
        "holding: no worker is started on this host until `start-worker resume` (or remove the mark and restart the service)"
    );
    tokio::select! {
        biased;
        _ = stop.requested() => Released::Ended,
        () = hold.released() => Released::Resumed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{StopRequest, Strength};
    use crate::host::blocking::Lane;

    struct Holding {
        folder: tempfile::TempDir,
        stop: StopSignal,
        hold: Hold,
        end: tokio::task::JoinHandle<Released>,
    }

    async fn holding() -> Holding {
        let folder = tempfile::tempdir().unwrap();
        let held = Hold::new(Some(folder.path().join("held")), Lane::default());
        held.set(HoldRecord::default()).await.unwrap();
        let stop = StopSignal::default();
        let (watched, level) = (stop.clone(), held.clone());
        let end = tokio::spawn(async move { hold(&level, &watched).await });
        Holding { folder, stop, hold: held, end }
    }

    #[tokio::test]
    async fn resuming_removes_the_mark_and_lets_the_runner_go_on() {
        let holding = holding().await;
        assert_eq!(holding.hold.release().await, Ok(true));
        assert!(!holding.folder.path().join("held").exists());
        assert_eq!(holding.end.await.unwrap(), Released::Resumed);
    }

    #[tokio::test]
    async fn a_drain_ends_it_and_the_mark_stays() {
        let holding = holding().await;
        holding.stop.request(StopRequest::operator(Strength::Drain));
        assert_eq!(holding.end.await.unwrap(), Released::Ended);
        assert!(holding.folder.path().join("held").exists());
    }
}
