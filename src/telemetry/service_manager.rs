//! Notifies the service manager of the runner's state: that the worker has been started, and a status text.
//!
//! This task sends no heartbeats: these come from the task that does the work ([`ServiceManager::heartbeat`]). This one
//! notifies of changes, and refreshes outdated text at a heartbeat, so that it causes no extra wake-ups.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::event::{Cause, Phase, Reason, StateSummary, signal_name};
use crate::hold::Held;
use crate::host::drain_marker::HoldRecord;
use crate::host::service_manager::ServiceManager;
use crate::redact::{Secrets, cut};
use crate::telemetry::status_board::StatusBoard;

/// Maximum length of an error's text, in characters: systemd shows a single line.
const LONGEST_ERROR: usize = 400;

/// The parameters of the notifications.
pub struct StatusNotifier {
    pub manager: ServiceManager,
    pub board: watch::Receiver<StatusBoard>,
    /// The operation that is currently retried.
    pub trouble: watch::Receiver<Option<Arc<str>>>,
    /// The hold of this host.
    pub hold: watch::Receiver<Held>,
    /// Tells the wall-clock time.
    pub clock: Arc<dyn Clock>,
    pub secrets: Secrets,
    /// `worker.implementation`.
    pub worker: &'static str,
}

impl StatusNotifier {
    /// Notifies until every publisher is gone. Returns at once without a service manager.
    pub async fn tell(mut self) {
        if !self.manager.is_there() {
            return;
        }
        let (mut told, mut stopping) = (String::new(), false);
        loop {
            let (text, ready, ends) = self.now();
            if text != told || ready && !self.manager.is_ready() {
                // A datagram that was not accepted is sent again at the next heartbeat.
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
                changed = self.hold.changed() => if changed.is_err() { return },
                () = self.manager.beaten() => {}
            }
        }
    }

    /// Returns the text, whether the service is up, and whether it is about to stop.
    fn now(&mut self) -> (String, bool, bool) {
        let board = self.board.borrow_and_update().clone();
        let trouble = self.trouble.borrow_and_update().as_deref().map(|trouble| self.secrets.mask(trouble));
        let summary = board.summary;
        let ready = is_up(summary) || trouble.is_some();
        let ends = matches!(summary.phase, Phase::Stopping | Phase::Killing)
            && summary.reason == Some(Reason::Asked(Cause::Operator));
        let held = self.hold.borrow_and_update().clone();
        let why = (trouble.as_deref(), held.as_deref());
        let text = self.secrets.mask(status(&board, why, self.worker, self.clock.now()));
        (text, ready, ends)
    }
}

/// Returns true if the worker runs, or its start has to wait. `systemctl start` then returns, and a boot continues:
/// otherwise a wrong secret would block both without end. The text names the obstacle.
fn is_up(summary: StateSummary) -> bool {
    summary.worker_pid.is_some() || matches!(summary.phase, Phase::Holding | Phase::BackingOff)
}

/// Reports the runner's final outcome. `intended`: the manager should not treat a worker that was never started as a
/// failure.
pub fn conclude(manager: &ServiceManager, outcome: &str, intended: bool) {
    // systemd considers a service that ends before it was ready as failed, whatever its exit code, and would restart
    // it.
    manager.conclude(outcome, intended);
}

/// One line for `systemctl status`.
fn status(
    board: &StatusBoard,
    (trouble, held): (Option<&str>, Option<&HoldRecord>),
    worker: &str,
    now: Timestamp,
) -> String {
    let summary = board.summary;
    let doing = match summary.phase {
        Phase::Preparing => "preparing: finding out who the worker is, registering it".to_owned(),
        Phase::Holding => "holding: no worker is started until `start-worker resume`".to_owned(),
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
    if let Some(held) = held {
        let _ = write!(text, "; {held}");
        if summary.phase != Phase::Holding {
            text.push_str("; no other worker is started until `start-worker resume`");
        }
    }
    if let Some(trouble) = trouble {
        let _ = write!(text, "; trying again: ");
        text.push_str(&cut(trouble, LONGEST_ERROR, "…"));
    }
    text
}

/// Rounds to minutes, `5h 30m`, or to seconds below a minute.
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
            assert_eq!(status(&board, (None, None), "generic-worker", Timestamp::UNIX_EPOCH), expected);
        }
    }

    #[test]
    fn who_holds_the_host_since_when_and_why_is_told_while_a_worker_runs_and_when_none_does() {
        let since = Timestamp::from_second(1_000).unwrap();
        let held = HoldRecord::new(Some("alice"), since, Some("new disk"));
        let tell = |phase, pid| {
            status(&board(phase, pid, None), (None, Some(&held)), "command", Timestamp::UNIX_EPOCH)
        };
        let who = "held since 1970-01-01T00:16:40Z by alice: new disk";
        assert_eq!(
            tell(Phase::Holding, None),
            format!("holding: no worker is started until `start-worker resume`, pool aa/bb; {who}")
        );
        let running = tell(Phase::Running, Some(7));
        let end = format!("; {who}; no other worker is started until `start-worker resume`");
        assert!(
            running.starts_with("running command (pid 7), pool aa/bb; ") && running.ends_with(&end),
            "{running}"
        );
    }

    #[test]
    fn a_worker_that_a_signal_has_stopped_is_told_with_the_signal() {
        let mut board = board(Phase::Running, Some(1), None);
        board.summary.stopped_by = Some(libc::SIGSTOP);
        let text = status(&board, (None, None), "command", Timestamp::UNIX_EPOCH);
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
            hold: watch::channel(None).1,
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
            status(&board, (Some("registerWorker: no route to host"), None), "command", now),
            "running command (pid 1), pool aa/bb; credentials expire in 12s; trying again: registerWorker: no route to host"
        );
    }
}
