//! The runner's health: healthy, or the reason why not.

use std::time::Duration;

use jiff::Timestamp;

use super::View;
use crate::event::{Phase, Reason, signal_name};
use crate::telemetry::status_board::StatusBoard;

/// The number of consecutive crashes that count as a crash loop. A single crash does not.
const A_LOOP: u32 = 2;

/// Time limit for the supervisor's loop to answer. No iteration takes that long.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

impl View {
    /// Checks the runner's state. The error is the reason why the runner is unhealthy.
    pub fn health(&self, now: Timestamp) -> Result<(), String> {
        let trouble = self.trouble.borrow().as_deref().map(|what| self.secrets.mask(what));
        judge(&self.board.borrow(), trouble.as_deref(), now)
    }

    /// Checks the runner's state, and that the supervisor's loop is alive.
    pub async fn live_health(&self, now: Timestamp) -> Result<(), String> {
        if !self.liveness.beats(ANSWERS_WITHIN).await {
            return Err(format!(
                "the supervisor's loop has not answered within {} s",
                ANSWERS_WITHIN.as_secs()
            ));
        }
        self.health(now)
    }
}

fn judge(board: &StatusBoard, trouble: Option<&str>, now: Timestamp) -> Result<(), String> {
    let summary = &board.summary;
    if board.credentials_expire.is_some_and(|expire| expire <= now) && summary.worker_pid.is_some() {
        return Err("the worker's credentials have expired".to_owned());
    }
    if let Some(signal) = summary.stopped_by {
        return Err(format!("the worker is stopped by {}", signal_name(signal)));
    }
    let crashes = board.runs.crashes;
    let forgotten = || {
        let ran = now.duration_since(board.since);
        Duration::try_from(ran).is_ok_and(|ran| ran > crashes.window)
    };
    match summary.phase {
        Phase::BackingOff if matches!(summary.reason, Some(Reason::FailedRuns { .. })) => {
            Err(summary.reason.as_ref().map(Reason::to_string).unwrap_or_default())
        }
        Phase::BackingOff | Phase::Starting | Phase::Running | Phase::Clearing
            if crashes.count >= A_LOOP && !(summary.phase == Phase::Running && forgotten()) =>
        {
            Err(format!("the worker crashes again and again: {} times in a row", crashes.count))
        }
        // Only the current retry makes a preparing runner unhealthy. Other warnings in the log do not.
        Phase::Preparing => {
            trouble.map_or(Ok(()), |what| Err(format!("the worker cannot start yet: {what}")))
        }
        Phase::Ended => match summary.reason {
            Some(Reason::Over(outcome)) if !outcome.is_as_intended() => Err(outcome.to_string()),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::SignedDuration;

    use super::*;
    use crate::clock::SystemClock;
    use crate::event::{Outcome, StateSummary};
    use crate::output::{Format, Output};
    use crate::redact::Secrets;
    use crate::telemetry::current_retry::CurrentRetry;
    use crate::telemetry::recent_warnings::{self, RecentWarnings};
    use crate::telemetry::status_board::{Crashes, StatusPublisher};

    struct Runner {
        publisher: StatusPublisher,
        recent_warnings: RecentWarnings,
        view: View,
    }

    fn runner() -> Runner {
        let (publisher, recent_warnings) =
            (StatusPublisher::new(Arc::new(SystemClock)), RecentWarnings::default());
        let sink = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
        let output = Output::start(sink.into(), Format::Text).unwrap().counters();
        let view = View::new(&publisher, &recent_warnings, output, "static", "generic-worker");
        Runner { publisher, recent_warnings, view }
    }

    fn crashes(count: u32) -> Crashes {
        Crashes { count, allowed: 5, window: Duration::from_secs(600) }
    }

    #[test]
    fn crashes_in_a_row_are_not_healthy_until_a_run_is_long() {
        let Runner { publisher, view, .. } = runner();
        let health = |seconds| view.health(Timestamp::now() + SignedDuration::from_secs(seconds)).is_ok();
        publisher.publish(Phase::Running.into());
        publisher.publish_crashes(crashes(1));
        assert!(health(0));
        publisher.publish_crashes(crashes(2));
        assert!(!health(0) && !health(590) && health(610));
        publisher.publish(Phase::BackingOff.into());
        assert!(!health(0) && !health(610));
        publisher.publish(Phase::Draining.into());
        assert!(health(0), "somebody has seen to it");
    }

    #[test]
    fn preparing_is_healthy_until_something_goes_wrong() {
        let Runner { publisher, recent_warnings, view } = runner();
        let (trouble, text) = (CurrentRetry::default(), "not made private".to_owned());
        let view = view.with_trouble(&trouble, &Secrets::default());
        recent_warnings.note(recent_warnings::Warning { at: Timestamp::now(), is_error: false, text });
        assert_eq!(view.health(Timestamp::now()), Ok(()), "a warning that keeps nobody from starting");
        trouble.tell("no route");
        assert_eq!(view.health(Timestamp::now()).unwrap_err(), "the worker cannot start yet: no route");
        trouble.is_over();
        assert_eq!(view.health(Timestamp::now()), Ok(()));
        trouble.tell("no route");
        publisher.publish(Phase::Running.into());
        assert_eq!(view.health(Timestamp::now()), Ok(()));
    }

    #[test]
    fn an_end_that_was_not_intended_and_credentials_that_are_over_are_not_healthy() {
        let Runner { publisher, view, .. } = runner();
        let now = Timestamp::now();
        for (outcome, healthy) in
            [(Outcome::Stopped, true), (Outcome::GaveUp, false), (Outcome::NeedsReboot, false)]
        {
            let reason = Some(Reason::Over(outcome));
            publisher.publish(StateSummary { reason, ..Phase::Ended.into() });
            assert_eq!(view.health(now).is_ok(), healthy, "{outcome}");
        }
        publisher.publish(StateSummary { worker_pid: Some(7), ..Phase::Running.into() });
        let stopped =
            StateSummary { worker_pid: Some(7), stopped_by: Some(libc::SIGSTOP), ..Phase::Running.into() };
        publisher.publish(stopped);
        assert_eq!(view.health(now).unwrap_err(), "the worker is stopped by SIGSTOP");
        publisher.publish(StateSummary { stopped_by: None, ..stopped });
        publisher.publish_credentials(Some(now));
        assert!(view.health(now - SignedDuration::from_secs(1)).is_ok());
        assert_eq!(view.health(now).unwrap_err(), "the worker's credentials have expired");
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_is_not_healthy_whatever_its_state() {
        let Runner { publisher, view, .. } = runner();
        publisher.publish(Phase::Running.into());
        assert_eq!(view.live_health(Timestamp::now()).await, Ok(()));
        let mut attendant = publisher.liveness().attend();
        let hung = view.live_health(Timestamp::now()).await.unwrap_err();
        assert_eq!(hung, "the supervisor's loop has not answered within 2 s");
        let answered = async {
            attendant.asked().await;
            attendant.answer();
            // Asked again: the previous request has ended.
            attendant.asked().await;
            attendant.answer();
        };
        let health = view.live_health(Timestamp::now());
        tokio::select! {
            health = health => assert_eq!(health, Ok(())),
            () = async { answered.await; std::future::pending().await } => {}
        }
    }
}
