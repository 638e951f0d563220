//! Holding: after an operator's drain that ended in a reboot, no worker starts until an operator resumes it.

use std::path::Path;

use tracing::{error, info, warn};

use crate::error_chain::ErrorChain;
use crate::host::blocking::Lane;
use crate::host::drain_marker;
use crate::stop::StopSignal;
use crate::telemetry::status::Resumes;

/// The end of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The worker may be started.
    Resumed,
    /// The runner was told to end.
    Ended,
}

/// Holds while `mark` exists: until a resume, which removes the mark, or until the runner is told to end.
pub async fn hold((mark, lane): (&Path, &Lane), resumes: &Resumes, stop: &StopSignal) -> Released {
    warn!(name: "holding",
        mark = %mark.display(),
        "holding: this host was drained before it rebooted; to let the worker start again: `start-worker resume`, or remove the mark and restart the service"
    );
    loop {
        let resume = tokio::select! {
            biased;
            _ = stop.requested() => return Released::Ended,
            resume = resumes.next() => resume,
        };
        let removed = tokio::select! {
            biased;
            _ = stop.requested() => return Released::Ended,
            // The removal ends with an fsync, which can take long.
            removed = drain_marker::unmark(mark, lane) => removed,
        };
        let cause = match removed {
            Ok(Ok(())) => {
                info!(name: "resumed", mark = %mark.display(), "resumed: the mark is removed, and the worker is started");
                // The client may have disconnected.
                let _ = resume.answer.send(Ok(()));
                return Released::Resumed;
            }
            Ok(Err(cause)) => ErrorChain(&cause).to_string(),
            Err(cause) => cause.to_string(),
        };
        error!(name: "resume-failed", error = cause, "cannot resume, still holding; remove the mark and restart the service");
        let _ = resume.answer.send(Err(cause));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::event::{StopRequest, Strength};
    use crate::telemetry::status::Resume;

    struct Holding {
        folder: tempfile::TempDir,
        stop: StopSignal,
        resumes: mpsc::Sender<Resume>,
        end: tokio::task::JoinHandle<Released>,
    }

    fn holding(mark: &str) -> Holding {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(mark);
        let stop = StopSignal::default();
        let (resumes, asked) = mpsc::channel(1);
        let watched = stop.clone();
        let end =
            tokio::spawn(
                async move { hold((&path, &Lane::default()), &Resumes::new(asked), &watched).await },
            );
        Holding { folder, stop, resumes, end }
    }

    async fn resume(holding: &Holding) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        holding.resumes.send(Resume { answer }).await.unwrap();
        answered.await.unwrap()
    }

    #[tokio::test]
    async fn resuming_removes_the_mark_and_lets_the_runner_go_on() {
        let holding = holding("held");
        std::fs::write(holding.folder.path().join("held"), "").unwrap();
        assert_eq!(resume(&holding).await, Ok(()));
        assert!(!holding.folder.path().join("held").exists());
        assert_eq!(holding.end.await.unwrap(), Released::Resumed);
    }

    #[tokio::test]
    async fn a_mark_that_cannot_be_removed_keeps_the_runner_holding() {
        let holding = holding("held");
        std::fs::create_dir(holding.folder.path().join("held")).unwrap();
        let cause = resume(&holding).await.unwrap_err();
        assert!(cause.contains("/held: "), "{cause}");
        holding.stop.request(StopRequest::operator(Strength::Stop));
        assert_eq!(holding.end.await.unwrap(), Released::Ended);
    }

    #[tokio::test]
    async fn a_drain_ends_it_also_where_nobody_can_ask_to_resume() {
        let Holding { folder, stop, resumes, end } = holding("held");
        drop(resumes);
        stop.request(StopRequest::operator(Strength::Drain));
        assert_eq!(end.await.unwrap(), Released::Ended);
        drop(folder);
    }
}
