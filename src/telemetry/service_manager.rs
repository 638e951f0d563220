//! What the service manager is told of the runner: that the worker has been started, and in words what is going on.
//!
//! Heartbeats are none of this task's business: they come from whoever does the work, as he does it
//! ([`ServiceManager::heartbeat`]). This one tells of changes, and what has grown old anew at a heartbeat, so that
//! nobody wakes up for it.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::event::{Cause, Phase, Reason, StateSummary, signal_name};
use crate::host::service_manager::ServiceManager;
use crate::redact::{Secrets, cut};
use crate::telemetry::status_board::StatusBoard;

/// An error's text is cut here, in characters: systemd shows one line.
const LONGEST_ERROR: usize = 400;

/// What the telling needs.
pub struct StatusNotifier {
    /// Who is told.
    pub manager: ServiceManager,
    /// Where the runner stands.
    pub board: watch::Receiver<StatusBoard>,
    /// What it tries again.
    pub trouble: watch::Receiver<Option<Arc<str>>>,
    /// Tells the wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// What must not be shown.
    pub secrets: Secrets,
    /// The worker's kind, as the runner configuration has it.
    pub worker: &'static str,
}

impl StatusNotifier {
    /// Tells until nobody knows more. Where there is no service manager, at once nothing.
    pub async fn tell(mut self) {
        if !self.manager.is_there() {
            return;
        }
        let (mut told, mut stopping) = (String::new(), false);
        loop {
            let (text, ready, ends) = self.now();
            if text != told || ready && !self.manager.is_ready() {
                // What was not taken is told again at the next heartbeat.
                if self.manager.show(&text, ready) {
                    told = text;
                }
            }
            if ends && !stopping {
                self.manager.stopping();
                stopping = true;
            }
            tokio::select! {
                changed = self.board.changed() => if changed.is_err() { return },
                changed = self.trouble.changed() => if changed.is_err() { return },
                () = self.manager.beaten() => {}
            }
        }
    }

    /// What is to be told: the words, whether the service is up, whether it is about to end.
    fn now(&mut self) -> (String, bool, bool) {
        let board = self.board.borrow_and_update().clone();
        let trouble = self.trouble.borrow_and_update().as_deref().map(|trouble| self.secrets.mask(trouble));
        let summary = board.summary;
        let ready = is_up(summary) || trouble.is_some();
        let ends = matches!(summary.phase, Phase::Stopping | Phase::Killing)
            && summary.reason == Some(Reason::Asked(Cause::Operator));
        let text = self.secrets.mask(status(&board, trouble.as_deref(), self.worker, self.clock.now()));
        (text, ready, ends)
    }
}

/// Returns true if the worker runs, or its start has to wait. The start of the service returns then, and a boot goes
/// on: a wrong secret would keep both waiting without end. The words name the obstacle.
fn is_up(summary: StateSummary) -> bool {
    summary.worker_pid.is_some() || matches!(summary.phase, Phase::Holding | Phase::BackingOff)
}

/// The runner ends as this says. `intended`: the manager is not to take a worker that was never started for a failure.
pub fn conclude(manager: &ServiceManager, outcome: &str, intended: bool) {
    // A service that ends before it was ready has failed, whatever its exit code, and would be started again.
    manager.conclude(outcome, intended);
}

/// One line for `systemctl status`.
fn status(board: &StatusBoard, trouble: Option<&str>, worker: &str, now: Timestamp) -> String {
    let summary = board.summary;
    let doing = match summary.phase {
        Phase::Preparing => "preparing: finding out who the worker is, registering it".to_owned(),
        Phase::Holding => {
            "holding: drained before the reboot; `start-worker resume` lets the worker start again".to_owned()
        }
        Phase::Starting => format!("starting {worker}"),
        Phase::BackingOff => format!("waiting before {worker} is started again"),
        Phase::AwaitingReboot => "waiting for the host to reboot".to_owned(),
        Phase::Clearing => format!("{worker} has ended; ending what it left behind"),
        Phase::Ended => format!("{worker} has ended"),
        phase => format!("{} {worker}", phase.name()),
    };
    let mut text = doing;
    // Writing to a String cannot fail.
    if let Some(pid) = summary.worker_pid {
        let _ = write!(text, " (pid {pid})");
    }
    if let Some(signal) = summary.stopped_by {
        let _ = write!(text, ", stopped by {}", signal_name(signal));
    }
    if let Some(worker) = &board.worker {
        let _ = write!(text, ", pool {}", worker.identity.worker_pool_id);
    }
    if let Some(reason) = summary.reason {
        let _ = write!(text, "; {reason}");
    }
    if summary.worker_pid.is_some() {
        if let Some(renew) = board.credentials_renew {
            let _ = write!(text, "; credentials renew in {}", rough(renew, now));
        } else if let Some(expire) = board.credentials_expire {
            let _ = write!(text, "; credentials expire in {}", rough(expire, now));
        }
    }
    if let Some(trouble) = trouble {
        let _ = write!(text, "; trying again: ");
        text.push_str(&cut(trouble, LONGEST_ERROR, "…"));
    }
    text
}

/// `5h 30m`, to the minute; seconds below that.
fn rough(time: Timestamp, now: Timestamp) -> humantime::FormattedDuration {
    let left = Duration::try_from(time.duration_since(now)).unwrap_or_default().as_secs();
    let rough = if left < 60 { left } else { left - left % 60 };
    humantime::format_duration(Duration::from_secs(rough))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::event::{Exit, ExitClass, ExitStatus, Outcome};
    use crate::run_spec::{WorkerIdentity, WorkerPoolId};
    use crate::telemetry::status_board::KnownWorker;
    use crate::telemetry::status_board::StatusPublisher;

    fn board(phase: Phase, worker_pid: Option<u32>, reason: Option<Reason>) -> StatusBoard {
        let identity = WorkerIdentity {
            provider_id: "static".to_owned(),
            worker_pool_id: WorkerPoolId::parse("aa/bb").unwrap(),
            worker_group: "group".to_owned(),
            worker_id: "worker".to_owned(),
        };
        let known = KnownWorker { root_url: "https://tc.example.com".to_owned(), identity };
        StatusBoard {
            summary: StateSummary { worker_pid, reason, ..phase.into() },
            since: Timestamp::UNIX_EPOCH,
            worker: Some(Arc::new(known)),
            credentials_expire: Some(Timestamp::from_second(6 * 3600).unwrap()),
            credentials_renew: Some(Timestamp::from_second(5 * 3600 + 30 * 60 + 59).unwrap()),
            ..StatusPublisher::new(Arc::new(SystemClock)).observe().borrow().clone()
        }
    }

    #[test]
    fn each_phase_is_told_in_words() {
        let crash =
            Reason::Exited(Exit { status: ExitStatus::Code(3), class: ExitClass::Crash, meaning: "unknown" });
        let operator = Reason::Asked(Cause::Operator);
        for (phase, pid, reason, expected) in [
            (
                Phase::Preparing,
                None,
                None,
                "preparing: finding out who the worker is, registering it, pool aa/bb",
            ),
            (Phase::Starting, None, None, "starting generic-worker, pool aa/bb"),
            (
                Phase::Running,
                Some(4711),
                None,
                "running generic-worker (pid 4711), pool aa/bb; credentials renew in 5h 30m",
            ),
            (
                Phase::Draining,
                Some(4711),
                Some(operator),
                "draining generic-worker (pid 4711), pool aa/bb; operator; credentials renew in 5h 30m",
            ),
            (
                Phase::BackingOff,
                None,
                Some(crash),
                "waiting before generic-worker is started again, pool aa/bb; exit code 3: unknown",
            ),
            (Phase::AwaitingReboot, None, None, "waiting for the host to reboot, pool aa/bb"),
            (
                Phase::Ended,
                None,
                Some(Reason::Over(Outcome::GaveUp)),
                "generic-worker has ended, pool aa/bb; gave up on the worker",
            ),
        ] {
            let board = board(phase, pid, reason);
            assert_eq!(status(&board, None, "generic-worker", Timestamp::UNIX_EPOCH), expected);
        }
    }

    #[test]
    fn a_worker_that_a_signal_has_stopped_is_told_with_the_signal() {
        let mut board = board(Phase::Running, Some(1), None);
        board.summary.stopped_by = Some(libc::SIGSTOP);
        let text = status(&board, None, "command", Timestamp::UNIX_EPOCH);
        assert!(text.starts_with("running command (pid 1), stopped by SIGSTOP, pool aa/bb; "), "{text}");
    }

    #[test]
    fn a_secret_that_an_errors_end_cuts_in_two_is_not_told() {
        const SECRET: &str = "very-secret-password";
        let secrets = Secrets::default();
        secrets.add(SECRET);
        let error = format!("{}{SECRET} and more", "x".repeat(LONGEST_ERROR - 10));
        let (_standing, board) = watch::channel(board(Phase::Preparing, None, None));
        let (_trouble, trouble) = watch::channel(Some(Arc::from(error)));
        let manager = ServiceManager::default();
        let mut telling = StatusNotifier {
            manager,
            board,
            trouble,
            clock: Arc::new(SystemClock),
            secrets,
            worker: "command",
        };
        let (text, ..) = telling.now();
        assert!(text.contains("xxx") && !text.contains("very"), "{text}");
    }

    #[test]
    fn what_is_tried_again_is_told_with_its_error() {
        let mut board = board(Phase::Running, Some(1), None);
        board.credentials_renew = None;
        let now = Timestamp::from_second(6 * 3600 - 12).unwrap();
        assert_eq!(
            status(&board, Some("registerWorker: no route to host"), "command", now),
            "running command (pid 1), pool aa/bb; credentials expire in 12s; trying again: registerWorker: no route to host"
        );
    }
}
