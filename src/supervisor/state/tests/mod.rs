//! Tests of the state machine: a hostile world, invariants, and planted faults.

use std::time::Duration;

use super::*;
use crate::config::{AfterRun, OnUnfit, Restart};
use crate::event::{Cause, ExitClass, ExitStatus, StopRequest};
use crate::retry::FailureBackoff;

mod invariants;
mod random;
mod table;
mod world;

/// A policy whose times are easy to distinguish.
pub(super) fn policy() -> Policy {
    Policy {
        restart: Restart::OnFailure,
        max_restarts: 3,
        restart_window: secs(600),
        backoff_initial: secs(1),
        backoff_max: secs(8),
        failure_backoff: FailureBackoff { initial: secs(30), max: secs(1800) },
        failed_runs: 0,
        kill_descendants: true,
        drain_timeout: secs(3600),
        drain_idle_timeout: secs(60),
        stop_timeout: secs(50),
        kill_timeout: secs(10),
        hello_timeout: secs(30),
        on_reboot: RebootPolicy::Wait,
        reboot_timeout: secs(300),
        force_reboot_time: Duration::ZERO,
        force_shutdown_time: Duration::ZERO,
        after_run: AfterRun::Exit,
        on_unfit: OnUnfit::Restart,
        max_tasks: None,
        max_uptime: None,
        shutdown_host: false,
        dynamic: false,
    }
}

/// A hello that supports new credentials and, optionally, graceful termination.
pub(super) fn hello(graceful_termination: bool) -> Event {
    Event::Hello { graceful_termination, new_credentials: true }
}

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn exit(class: ExitClass) -> Exit {
    Exit { status: ExitStatus::Code(0), class, meaning: "test" }
}

/// A machine driven step by step.
pub(super) struct Driven {
    pub(super) machine: Machine,
    pub(super) now: Moment,
    renewals: u32,
}

impl Driven {
    pub(super) fn new(policy: Policy) -> Self {
        Self { machine: Machine::new(policy).0, now: Duration::ZERO, renewals: 0 }
    }

    /// A machine whose worker runs.
    pub(super) fn running(policy: Policy) -> Self {
        let mut driven = Self::new(policy);
        driven.start();
        driven
    }

    /// A machine whose worker runs and has said hello.
    pub(super) fn greeted(policy: Policy) -> Self {
        let mut driven = Self::running(policy);
        driven.event(hello(true));
        driven
    }

    pub(super) fn start(&mut self) {
        assert_eq!(self.event(Event::Prepared), [Action::Spawn]);
        assert_eq!(self.event(Event::Started { pid: 7 }), []);
    }

    /// Handles an event. Returns the actions without notes, including those of failed runs.
    pub(super) fn event(&mut self, event: Event) -> Vec<Action> {
        let noted = |action: &Action| {
            matches!(action, Action::Note(_) | Action::CountFailure { .. } | Action::ForgetFailures)
        };
        let actions = self.machine.handle(self.now, event);
        actions.into_iter().filter(|action| !noted(action)).collect()
    }

    /// Renews the credentials once more.
    pub(super) fn renew(&mut self) -> Vec<Action> {
        self.renewals += 1;
        self.event(Event::Renewed { renewals: self.renewals })
    }

    /// Expires the credentials before the latest ones.
    pub(super) fn old_credentials_end(&mut self) -> Vec<Action> {
        self.event(Event::OldCredentialsEnd { renewals: self.renewals - 1 })
    }

    pub(super) fn after(&mut self, time: Duration, event: Event) -> Vec<Action> {
        self.now += time;
        self.event(event)
    }

    /// Waits for the deadline, which must be `time` away.
    pub(super) fn deadline_in(&mut self, time: Duration) -> Vec<Action> {
        assert_eq!(self.machine.deadline(), Some(self.now + time), "{:?}", self.machine.state());
        self.after(time, Event::Deadline)
    }

    /// The worker exits after `ran`, and its leftover processes are gone.
    pub(super) fn exits(&mut self, ran: Duration, class: ExitClass, in_place: bool) -> Vec<Action> {
        self.after(ran, Event::Exited(exit(class)));
        self.event(Event::Settled { in_place })
    }

    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self.machine.state() {
            State::Ended(outcome) => Some(*outcome),
            _ => None,
        }
    }
}

/// A hello that only supports graceful termination.
const UNTEACHABLE: Event = Event::Hello { graceful_termination: true, new_credentials: false };

pub(super) const DRAIN: Event = Event::Stop(StopRequest::operator(Strength::Drain));
pub(super) const DRAIN_ONCE: Event = Event::Stop(StopRequest::DRAIN_ONCE);
pub(super) const STOP: Event = Event::Stop(StopRequest::operator(Strength::Stop));
pub(super) const KILL: Event = Event::Stop(StopRequest::operator(Strength::Kill));
const TELL_STOP: Action = Action::Tell { finish_tasks: false };
const TELL_DRAIN: Action = Action::Tell { finish_tasks: true };

#[test]
fn a_stop_climbs_from_message_to_sigterm_to_sigkill() {
    let mut driven = Driven::greeted(policy());
    assert_eq!(driven.event(STOP), [TELL_STOP]);
    assert_eq!(driven.deadline_in(secs(50)), [Action::Terminate]);
    assert_eq!(driven.deadline_in(secs(10)), [Action::Kill]);
    assert_eq!(driven.deadline_in(secs(10)), [Action::Kill]);
    driven.exits(secs(1), ExitClass::Crash, true);
    assert_eq!(driven.outcome(), Some(Outcome::Stopped));
}

#[test]
fn a_worker_that_sigkill_does_not_end_is_given_up_after_twice_the_kill_time() {
    let mut driven = Driven::greeted(policy());
    assert_eq!(driven.event(KILL), [Action::Kill]);
    assert_eq!(driven.deadline_in(secs(10)), [Action::Kill]);
    assert_eq!(driven.deadline_in(secs(10)), [Action::GiveUp]);
    assert_eq!(driven.machine.deadline(), None);
    // A late message or a late exit changes nothing.
    assert_eq!(driven.event(Event::Exited(exit(ExitClass::Done))), []);
    assert_eq!(driven.event(KILL), []);
    assert!(!driven.machine.restart_in_place_matters(driven.now));
    assert_eq!(driven.event(Event::Settled { in_place: true }), []);
    assert_eq!(driven.outcome(), Some(Outcome::Stuck { leaves: false }));
}

#[test]
fn a_stuck_worker_on_a_machine_that_is_taken_away_is_given_up_in_time_to_deregister() {
    for (left, kill, give_up) in [(120, 115_000, 117_500), (9, 6_666, 8_333)] {
        let mut driven = Driven::greeted(Policy { stop_timeout: secs(3600), ..policy() });
        let cause = Cause::Interruption { ends: true };
        let within = Some(secs(left));
        driven.event(Event::Interrupted { strength: Strength::Stop, cause, within });
        let mut actions = Vec::new();
        let mut moments = Vec::new();
        while !actions.contains(&Action::GiveUp) {
            driven.now = driven.machine.deadline().unwrap();
            actions = driven.event(Event::Deadline);
            if actions.iter().any(|action| matches!(action, Action::Kill | Action::GiveUp)) {
                moments.push(driven.now.as_millis());
            }
        }
        assert_eq!(moments, [kill, give_up], "{left} s left");
    }
}

#[test]
fn a_worker_without_graceful_termination_gets_sigterm_at_once() {
    let mut driven = Driven::running(policy());
    driven.event(hello(false));
    assert_eq!(driven.event(STOP), [Action::Terminate]);
    // SIGTERM replaces the message, and has its time limit.
    assert_eq!(driven.deadline_in(secs(50)), [Action::Kill]);
}

#[test]
fn a_stop_waits_five_seconds_for_the_hello() {
    let mut driven = Driven::running(policy());
    assert_eq!(driven.event(STOP), []);
    assert_eq!(driven.deadline_in(secs(5)), [Action::Terminate]);
}

#[test]
fn a_hello_in_time_turns_the_waiting_stop_into_a_message() {
    let mut driven = Driven::running(policy());
    driven.event(STOP);
    assert_eq!(driven.after(secs(4), hello(true)), [TELL_STOP]);
    assert_eq!(driven.deadline_in(secs(50)), [Action::Terminate]);
}

#[test]
fn a_stop_that_is_requested_again_changes_nothing_and_a_kill_takes_the_last_rung_at_once() {
    let mut driven = Driven::greeted(policy());
    driven.event(STOP);
    assert_eq!(driven.after(secs(1), STOP), []);
    assert_eq!(driven.after(secs(1), KILL), [Action::Kill]);
}

#[test]
fn a_drain_waits_for_the_hello_and_then_for_the_worker_without_any_signal() {
    let mut driven = Driven::running(policy());
    assert_eq!(driven.event(DRAIN), []);
    assert_eq!(driven.deadline_in(secs(30)), []);
    // A late hello is still honoured.
    assert_eq!(driven.after(secs(100), hello(true)), [TELL_DRAIN]);
    assert_eq!(driven.event(DRAIN), []);
    assert_eq!(driven.deadline_in(secs(3600)), [TELL_STOP]);
}

#[test]
fn a_drain_of_a_worker_without_the_capability_only_waits() {
    let mut driven = Driven::running(policy());
    driven.event(hello(false));
    assert_eq!(driven.event(DRAIN), []);
    assert_eq!(driven.deadline_in(secs(3600)), [Action::Terminate]);
}

#[test]
fn a_drain_becomes_a_stop_when_no_task_has_run_for_the_idle_time() {
    let mut driven = Driven::greeted(policy());
    driven.event(Event::TaskStarted);
    driven.event(DRAIN);
    driven.after(secs(1000), Event::TaskFinished);
    assert_eq!(driven.deadline_in(secs(60)), [TELL_STOP]);
}

#[test]
fn a_drain_of_a_worker_that_has_been_idle_for_long_gives_it_the_idle_time_from_the_asking() {
    let mut driven = Driven::greeted(policy());
    driven.event(Event::TaskStarted);
    driven.event(Event::TaskFinished);
    driven.after(secs(500), DRAIN);
    assert_eq!(driven.deadline_in(secs(60)), [TELL_STOP]);
}

#[test]
fn an_idle_worker_has_its_whole_time_to_stop() {
    let mut driven = Driven::greeted(Policy { stop_timeout: secs(300), ..policy() });
    driven.event(Event::TaskStarted);
    driven.event(Event::TaskFinished);
    driven.event(STOP);
    assert_eq!(driven.deadline_in(secs(300)), [Action::Terminate]);
}

#[test]
fn a_running_task_keeps_the_drain_going() {
    let mut driven = Driven::greeted(policy());
    driven.event(Event::TaskStarted);
    driven.event(Event::TaskStarted);
    driven.event(DRAIN);
    driven.after(secs(5), Event::TaskFinished);
    assert_eq!(driven.machine.deadline(), Some(secs(3600)));
}

#[test]
fn a_sigterm_strengthens_a_drain_and_a_drain_never_weakens_a_stop() {
    let mut driven = Driven::greeted(policy());
    assert_eq!(driven.event(DRAIN), [TELL_DRAIN]);
    assert_eq!(driven.event(STOP), [TELL_STOP]);
    assert_eq!(driven.event(DRAIN), []);
    assert_eq!(driven.deadline_in(secs(50)), [Action::Terminate]);
}

#[test]
fn what_a_worker_left_is_killed_after_the_kill_time_and_then_given_up() {
    let mut driven = Driven::greeted(policy());
    let cleared = driven.event(Event::Exited(exit(ExitClass::Done)));
    assert_eq!(cleared, [Action::Clear { terminate: true }]);
    assert_eq!(driven.deadline_in(secs(10)), [Action::KillLeftovers]);
    assert_eq!(driven.deadline_in(secs(10)), [Action::AbandonLeftovers]);
    assert_eq!(driven.machine.deadline(), None);
    driven.event(Event::Settled { in_place: true });
    assert_eq!(driven.outcome(), Some(Outcome::Done));
}

#[test]
fn a_kill_while_leftovers_are_ending_kills_them() {
    let mut driven = Driven::greeted(policy());
    driven.event(STOP);
    driven.after(secs(2), Event::Exited(exit(ExitClass::Done)));
    assert_eq!(driven.event(KILL), [Action::KillLeftovers]);
}

#[test]
fn leftovers_are_left_alone_where_the_operator_says_so() {
    let mut driven = Driven::greeted(Policy { kill_descendants: false, ..policy() });
    assert_eq!(driven.event(Event::Exited(exit(ExitClass::Done))), [Action::Clear { terminate: false }]);
    assert_eq!(driven.deadline_in(secs(10)), [Action::AbandonLeftovers]);
}

#[test]
fn an_interrupted_worker_waits_two_seconds_for_the_signal_that_explains_it() {
    let mut driven = Driven::greeted(policy());
    driven.exits(secs(60), ExitClass::Interrupted, true);
    assert_eq!(driven.after(secs(1), STOP), []);
    assert_eq!(driven.outcome(), Some(Outcome::Stopped));
}

#[test]
fn an_interrupted_worker_without_an_explanation_has_crashed() {
    let mut driven = Driven::greeted(policy());
    driven.exits(secs(60), ExitClass::Interrupted, true);
    assert_eq!(driven.deadline_in(secs(2)), []);
    assert_eq!(driven.deadline_in(secs(1)), [Action::Prepare]);
}

#[test]
fn the_back_off_doubles_up_to_its_maximum() {
    let mut driven = Driven::greeted(Policy { max_restarts: 9, ..policy() });
    for wait in [1, 2, 4, 8, 8] {
        assert_eq!(driven.exits(secs(1), ExitClass::Crash, true), []);
        assert_eq!(driven.deadline_in(secs(wait)), [Action::Prepare]);
        driven.start();
    }
}

#[test]
fn one_crash_more_than_allowed_is_giving_up() {
    let mut driven = Driven::greeted(policy());
    for wait in [1, 2, 4] {
        driven.exits(secs(100), ExitClass::Crash, true);
        driven.deadline_in(secs(wait));
        driven.start();
    }
    driven.exits(secs(100), ExitClass::Crash, true);
    assert_eq!(driven.outcome(), Some(Outcome::GaveUp));
}

#[test]
fn a_run_longer_than_the_window_makes_crashes_forgotten() {
    let mut driven = Driven::greeted(policy());
    for _ in 0..20 {
        driven.exits(secs(601), ExitClass::Crash, true);
        assert_eq!(driven.deadline_in(secs(1)), [Action::Prepare]);
        driven.start();
    }
}

#[test]
fn a_short_run_that_ends_well_makes_no_crash_forgotten() {
    let mut driven = Driven::greeted(Policy { restart: Restart::Always, ..policy() });
    for _ in 0..3 {
        for class in [ExitClass::Crash, ExitClass::Done] {
            driven.exits(secs(100), class, true);
            driven.after(secs(60), Event::Deadline);
            driven.start();
        }
    }
    driven.exits(secs(100), ExitClass::Crash, true);
    assert_eq!(driven.outcome(), Some(Outcome::GaveUp));
}

#[test]
fn a_request_before_the_start_starts_nothing() {
    let mut driven = Driven::new(policy());
    assert_eq!(driven.event(STOP), []);
    assert_eq!(driven.outcome(), Some(Outcome::Stopped));
}

#[test]
fn a_request_during_the_start_reaches_the_worker() {
    let mut driven = Driven::new(policy());
    driven.event(Event::Prepared);
    driven.event(STOP);
    driven.event(Event::Started { pid: 7 });
    assert_eq!(driven.event(hello(true)), [TELL_STOP]);
}

#[test]
fn a_shutdown_message_is_granted_once_and_only_where_the_operator_allows_it() {
    let mut driven = Driven::greeted(policy());
    assert_eq!(driven.event(Event::ShutdownAsked), []);
    let mut driven = Driven::greeted(Policy { shutdown_host: true, ..policy() });
    assert_eq!(driven.event(Event::ShutdownAsked), [Action::ShutDownHost]);
    assert_eq!(driven.event(Event::ShutdownAsked), []);
    driven.exits(secs(1), ExitClass::Crash, true);
    assert_eq!(driven.outcome(), Some(Outcome::Done));
}

#[test]
fn a_shutdown_message_that_is_read_after_the_exit_counts() {
    let mut driven = Driven::greeted(Policy { shutdown_host: true, ..policy() });
    driven.event(Event::Exited(exit(ExitClass::Crash)));
    assert_eq!(driven.event(Event::ShutdownAsked), [Action::ShutDownHost]);
    driven.event(Event::Settled { in_place: true });
    assert_eq!(driven.outcome(), Some(Outcome::Done));
}

#[test]
fn a_drain_once_while_the_reboot_is_awaited_is_remembered_over_it() {
    let mut driven = Driven::greeted(policy());
    driven.exits(secs(60), ExitClass::Reboot, false);
    assert_eq!(driven.event(DRAIN_ONCE), [Action::MarkHeld]);
    assert_eq!(driven.outcome(), Some(Outcome::Held));
}

#[test]
fn a_drain_once_is_remembered_although_the_hosts_sigterm_overtakes_the_workers_reboot_exit() {
    let mut driven = Driven::greeted(policy());
    driven.event(DRAIN_ONCE);
    driven.event(STOP);
    assert_eq!(driven.exits(secs(1), ExitClass::Reboot, false), [Action::MarkHeld]);
}

#[test]
fn a_worker_that_is_always_restarted_is_started_again_when_done_with_a_growing_wait_while_its_runs_are_short()
{
    let mut driven = Driven::greeted(Policy { restart: Restart::Always, max_restarts: 1, ..policy() });
    for wait in [1, 2, 4, 8, 8] {
        driven.exits(secs(5), ExitClass::Done, true);
        assert_eq!(driven.deadline_in(secs(wait)), [Action::Prepare]);
        driven.start();
    }
    driven.exits(secs(31), ExitClass::Done, true);
    assert_eq!(driven.deadline_in(secs(1)), [Action::Prepare]);
}

#[test]
fn new_credentials_are_told_to_a_worker_that_understands_them() {
    let mut driven = Driven::greeted(policy());
    assert_eq!(driven.renew(), [Action::TellCredentials]);
    assert_eq!(driven.old_credentials_end(), []);
    assert_eq!(driven.event(DRAIN), [TELL_DRAIN]);
    assert_eq!(driven.renew(), [Action::TellCredentials]);
}

#[test]
fn credentials_that_were_renewed_before_the_hello_are_told_after_it() {
    let mut driven = Driven::running(policy());
    assert_eq!(driven.renew(), []);
    assert_eq!(driven.renew(), []);
    assert_eq!(driven.event(hello(true)), [Action::TellCredentials]);
    assert_eq!(driven.event(hello(true)), []);
}

#[test]
fn files_that_were_being_written_during_a_renewal_are_written_again() {
    let mut driven = Driven::new(policy());
    assert_eq!(driven.renew(), []);
    assert_eq!(driven.event(Event::Prepared), [Action::Prepare]);
    driven.start();
    assert_eq!(driven.event(UNTEACHABLE), []);
}

#[test]
fn a_worker_that_cannot_be_told_finishes_its_tasks_and_is_started_again_with_the_new_credentials() {
    for says_hello in [true, false] {
        let mut driven = Driven::running(policy());
        if says_hello {
            driven.event(UNTEACHABLE);
            assert_eq!(driven.renew(), [TELL_DRAIN]);
        } else {
            assert_eq!(driven.renew(), []);
            // No hello in time: the worker is treated as one without the protocol.
            assert_eq!(driven.deadline_in(secs(30)), []);
            assert!(matches!(driven.machine.state(), State::Stopping(_, _, Ladder::Unasked(_))));
        }
        assert_eq!(driven.exits(secs(100), ExitClass::Done, true), [Action::Prepare]);
        driven.start();
        assert_eq!(driven.event(UNTEACHABLE), []);
    }
}

#[test]
fn a_worker_that_still_has_its_old_credentials_at_their_end_is_stopped_and_started_again() {
    let mut driven = Driven::running(policy());
    driven.event(UNTEACHABLE);
    assert_eq!(driven.renew(), [TELL_DRAIN]);
    assert_eq!(driven.old_credentials_end(), [TELL_STOP]);
    assert_eq!(driven.exits(secs(1), ExitClass::Interrupted, true), [Action::Prepare]);
}

#[test]
fn a_worker_that_was_drained_for_new_credentials_is_done_on_a_host_that_goes_with_it() {
    let mut driven = Driven::running(Policy { dynamic: true, ..policy() });
    driven.event(UNTEACHABLE);
    driven.renew();
    driven.exits(secs(1), ExitClass::Done, true);
    assert_eq!(driven.outcome(), Some(Outcome::Done));
}

#[test]
fn a_worker_that_was_drained_for_new_credentials_and_cannot_be_started_in_place_needs_a_boot() {
    let mut driven = Driven::running(policy());
    driven.event(UNTEACHABLE);
    driven.renew();
    driven.exits(secs(1), ExitClass::Done, false);
    assert_eq!(driven.outcome(), Some(Outcome::NeedsReboot));
}

#[test]
fn credentials_that_run_out_do_not_end_the_wait_for_a_reboot() {
    let mut driven = Driven::greeted(policy());
    driven.exits(secs(60), ExitClass::Reboot, false);
    driven.event(Event::Asked { strength: Strength::Stop, cause: Cause::CredentialsExpiring });
    assert!(matches!(driven.machine.state(), State::AwaitingReboot { .. }));
}

#[test]
fn a_new_deployment_during_the_wait_for_a_reboot_is_for_after_the_boot_or_takes_the_machine_away() {
    let redeploy = Event::Asked { strength: Strength::Drain, cause: Cause::Redeploy };
    let mut driven = Driven::greeted(policy());
    driven.exits(secs(60), ExitClass::Reboot, true);
    assert_eq!(driven.event(redeploy), [Action::ForgetRun]);
    assert!(matches!(driven.machine.state(), State::AwaitingReboot { .. }));
    let mut driven = Driven::greeted(Policy { dynamic: true, ..policy() });
    driven.exits(secs(60), ExitClass::Reboot, true);
    assert_eq!(driven.event(redeploy), []);
    assert!(matches!(driven.outcome(), Some(Outcome::Redeploy { .. })));
}

fn interruption(strength: Strength, within: Option<u64>) -> Event {
    let cause = Cause::Interruption { ends: true };
    Event::Interrupted { strength, cause, within: within.map(secs) }
}

#[test]
fn a_machine_with_half_a_minute_left_has_killed_its_worker_five_seconds_before() {
    let mut driven = Driven::greeted(policy());
    assert_eq!(driven.event(interruption(Strength::Stop, Some(30))), [TELL_STOP]);
    assert_eq!(driven.deadline_in(secs(15)), [Action::Terminate]);
    assert_eq!(driven.deadline_in(secs(10)), [Action::Kill]);
    driven.event(Event::Exited(exit(ExitClass::Crash)));
    driven.event(Event::Settled { in_place: true });
    assert_eq!(driven.outcome(), Some(Outcome::Interrupted { ends: true }));
}

#[test]
fn a_notice_is_acted_on_once_and_an_earlier_deadline_counts() {
    let mut driven = Driven::greeted(policy());
    assert_eq!(driven.event(interruption(Strength::Stop, Some(300))), [TELL_STOP]);
    assert_eq!(driven.event(interruption(Strength::Stop, Some(300))), []);
    assert_eq!(driven.machine.deadline(), Some(secs(50)));
    assert_eq!(driven.event(interruption(Strength::Stop, Some(30))), []);
    assert_eq!(driven.deadline_in(secs(15)), [Action::Terminate]);
}

#[test]
fn a_drain_before_a_far_deadline_becomes_a_stop_in_time_for_its_ladder() {
    let mut driven = Driven::greeted(policy());
    assert_eq!(driven.event(interruption(Strength::Drain, Some(1000))), [TELL_DRAIN]);
    // 5 s for the deregistration, 10 s for SIGTERM, 50 s for the message.
    assert_eq!(driven.deadline_in(secs(935)), [TELL_STOP]);
    assert_eq!(driven.deadline_in(secs(50)), [Action::Terminate]);
    assert_eq!(driven.deadline_in(secs(10)), [Action::Kill]);
}

#[test]
fn a_notice_before_the_hello_is_kept_and_sent_right_after_it() {
    let mut driven = Driven::running(policy());
    assert_eq!(driven.event(interruption(Strength::Stop, Some(120))), []);
    assert_eq!(driven.after(secs(3), hello(true)), [TELL_STOP]);
}

#[test]
fn a_notice_before_the_start_starts_nothing() {
    let mut driven = Driven::new(policy());
    assert_eq!(driven.event(interruption(Strength::Stop, Some(120))), []);
    assert_eq!(driven.outcome(), Some(Outcome::Interrupted { ends: true }));
}

#[test]
fn a_deadline_that_has_passed_by_the_hosts_clock_leaves_the_worker_a_few_seconds() {
    let mut driven = Driven::greeted(policy());
    assert_eq!(driven.event(interruption(Strength::Stop, Some(0))), [TELL_STOP]);
    assert!(driven.machine.deadline().is_some_and(|deadline| deadline > secs(3) && deadline < secs(10)));
}

#[test]
fn a_notice_of_the_end_during_a_drain_strengthens_it_and_sigterm_after_it_changes_nothing() {
    let mut driven = Driven::greeted(policy());
    assert_eq!(
        driven.event(Event::Asked { strength: Strength::Drain, cause: Cause::Redeploy }),
        [TELL_DRAIN]
    );
    assert_eq!(driven.event(interruption(Strength::Stop, None)), [TELL_STOP]);
    assert_eq!(driven.after(secs(2), STOP), []);
    driven.exits(secs(1), ExitClass::Done, true);
    assert_eq!(driven.outcome(), Some(Outcome::Interrupted { ends: true }));
}

#[test]
fn a_sigterm_during_a_redeploy_or_before_a_notice_of_the_end_is_the_operators() {
    let mut driven = Driven::greeted(policy());
    driven.event(Event::Asked { strength: Strength::Drain, cause: Cause::Redeploy });
    driven.after(secs(2), STOP);
    driven.event(interruption(Strength::Stop, None));
    driven.exits(secs(1), ExitClass::Done, true);
    assert_eq!(driven.outcome(), Some(Outcome::Stopped));
}

#[test]
fn the_end_of_credentials_that_a_worker_does_not_have_any_more_is_nothing_to_it() {
    let mut driven = Driven::running(policy());
    driven.event(UNTEACHABLE);
    assert_eq!(driven.renew(), [TELL_DRAIN]);
    assert_eq!(driven.exits(secs(100), ExitClass::Done, true), [Action::Prepare]);
    driven.start();
    driven.event(UNTEACHABLE);
    assert_eq!(driven.renew(), [TELL_DRAIN]);
    // The first credentials expire while the worker still uses the second.
    assert_eq!(driven.event(Event::OldCredentialsEnd { renewals: 0 }), []);
    assert_eq!(driven.event(Event::OldCredentialsEnd { renewals: 1 }), [TELL_STOP]);
}

#[test]
fn a_worker_whose_credentials_ran_out_while_its_reboot_was_awaited_is_not_started_in_its_place() {
    let mut driven = Driven::greeted(policy());
    driven.exits(secs(60), ExitClass::Reboot, true);
    driven.event(Event::Asked { strength: Strength::Stop, cause: Cause::CredentialsExpiring });
    assert_eq!(driven.deadline_in(secs(300)), []);
    assert_eq!(driven.outcome(), Some(Outcome::CredentialsExpired));
}

fn stopped(signal: i32) -> Event {
    Event::WorkerStopped { signal, lent: false }
}

#[test]
fn a_worker_that_a_signal_stops_is_continued_once_a_minute() {
    let mut driven = Driven::greeted(policy());
    let by = |driven: &Driven| match driven.machine.state() {
        State::Running(worker) => worker.stops.signal,
        state => panic!("{state:?}"),
    };
    for _ in 0..2 {
        let actions = driven.machine.handle(driven.now, stopped(libc::SIGSTOP));
        let note = Note::WorkerStopped { pid: 7, signal: libc::SIGSTOP };
        assert_eq!(actions, [Action::Note(note), Action::Continue]);
        assert_eq!(by(&driven), Some(libc::SIGSTOP));
        assert_eq!(driven.event(Event::WorkerContinued), []);
        assert_eq!(by(&driven), None);

        driven.now += secs(59);
        let actions = driven.machine.handle(driven.now, stopped(libc::SIGTTOU));
        let note = Note::WorkerLeftStopped { pid: 7, signal: libc::SIGTTOU };
        assert_eq!(actions, [Action::Note(note), Action::TakeTerminal]);
        // Further changes do not flood the log.
        for _ in 0..10 {
            assert_eq!(driven.event(Event::WorkerContinued), [Action::LendTerminal]);
            assert_eq!(driven.machine.handle(driven.now, stopped(libc::SIGTTOU)), [Action::TakeTerminal]);
        }
        assert_eq!(by(&driven), Some(libc::SIGTTOU));
        driven.now += secs(1);
    }
}

#[test]
fn a_worker_that_stops_for_want_of_a_terminal_goes_on_once_it_has_one() {
    let mut driven = Driven::greeted(policy());
    for _ in 0..3 {
        let lent = Event::WorkerStopped { signal: libc::SIGTTOU, lent: true };
        assert_eq!(driven.machine.handle(driven.now, lent), [Action::Continue]);
        assert_eq!(driven.event(Event::WorkerContinued), []);
    }
    assert_eq!(driven.event(stopped(libc::SIGTTOU)), [Action::Continue]);
}

#[test]
fn a_stopped_worker_that_is_asked_to_end_is_continued_first_and_one_that_is_killed_is_not() {
    let left = || {
        let mut driven = Driven::greeted(policy());
        driven.event(stopped(libc::SIGSTOP));
        driven.event(Event::WorkerContinued);
        driven.event(stopped(libc::SIGSTOP));
        driven
    };
    assert_eq!(left().event(STOP), [Action::Continue, TELL_STOP]);
    let drain = Event::Stop(StopRequest::operator(Strength::Drain));
    assert_eq!(left().event(drain), [Action::Continue, Action::Tell { finish_tasks: true }]);
    let mut driven = left();
    assert_eq!(driven.event(Event::Stop(StopRequest::operator(Strength::Kill))), [Action::Kill]);
    // The runner's own SIGSTOP, which precedes the SIGKILL.
    assert_eq!(driven.event(stopped(libc::SIGSTOP)), []);
    assert_eq!(driven.event(Event::WorkerContinued), []);
}

/// The failed runs that are counted when a worker, started as often as it is, ends like this; `None`: nothing is noted.
fn counted(policy: Policy, ran: Duration, class: ExitClass, in_place: bool) -> Option<Action> {
    let mut machine = Machine::new(policy).0;
    let mut noted = None;
    let mut handle = |machine: &mut Machine, now, event| {
        let actions = machine.handle(now, event);
        noted = actions
            .into_iter()
            .rfind(|action| matches!(action, Action::CountFailure { .. } | Action::ForgetFailures))
            .or(noted);
    };
    handle(&mut machine, Duration::ZERO, Event::Prepared);
    handle(&mut machine, Duration::ZERO, Event::Started { pid: 7 });
    handle(&mut machine, ran, Event::Exited(exit(class)));
    handle(&mut machine, ran, Event::Settled { in_place });
    noted
}

#[test]
fn a_run_that_fails_is_counted_and_one_that_does_not_is_not() {
    let once = |failure| Some(Action::CountFailure { failed_runs: 1, failure });
    let never = Policy { restart: Restart::Never, ..policy() };
    for (class, restarted, expected) in [
        (ExitClass::Crash, true, None),
        (ExitClass::Crash, false, once(RunFailure::Crash)),
        (ExitClass::Unfit, true, once(RunFailure::Unfit)),
        (ExitClass::BadConfiguration, true, once(RunFailure::BadConfiguration)),
        (ExitClass::Done, true, None),
        (ExitClass::Idle, false, None),
        (ExitClass::Reboot, true, None),
    ] {
        let policy = if restarted { policy() } else { never.clone() };
        assert_eq!(counted(policy.clone(), secs(60), class, true), expected, "{class:?}");
        let dynamic = Policy { dynamic: true, ..policy };
        assert_eq!(counted(dynamic, secs(60), class, true), None, "{class:?}: a cloud's machine is replaced");
    }
    assert_eq!(counted(policy(), secs(60), ExitClass::Crash, false), once(RunFailure::Crash));
}

#[test]
fn a_long_run_or_a_task_makes_failed_runs_before_it_forgotten() {
    let failed = Policy { failed_runs: 4, ..policy() };
    assert_eq!(counted(failed.clone(), secs(601), ExitClass::Done, true), Some(Action::ForgetFailures));
    assert_eq!(counted(failed.clone(), secs(599), ExitClass::Done, true), None);
    let after_long_run = counted(failed.clone(), secs(601), ExitClass::Unfit, true);
    assert_eq!(after_long_run, Some(Action::CountFailure { failed_runs: 1, failure: RunFailure::Unfit }));
    let mut machine = Machine::new(failed).0;
    let _ = machine.handle(Duration::ZERO, Event::Prepared);
    let _ = machine.handle(Duration::ZERO, Event::Started { pid: 7 });
    assert_eq!(machine.handle(Duration::ZERO, Event::TaskStarted), []);
    assert_eq!(machine.handle(Duration::ZERO, Event::TaskFinished), [Action::ForgetFailures]);
}

#[test]
fn an_unfit_worker_is_started_again_once_as_after_a_crash_and_then_rarely() {
    let mut driven = Driven::running(Policy { max_restarts: 5, ..policy() });
    let mut starts = vec![driven.now];
    for pause in [1, 120, 480, 1800] {
        driven.exits(secs(0), ExitClass::Unfit, true);
        assert_eq!(driven.deadline_in(secs(pause)), [Action::Prepare]);
        driven.start();
        starts.push(driven.now);
    }
    assert!(starts.iter().filter(|start| **start < secs(300)).count() <= 3, "{starts:?}");
    driven.exits(secs(0), ExitClass::Unfit, true);
    assert_eq!(driven.event(Event::Resumed), [Action::Prepare], "an operator does not want to wait");
}

#[test]
fn an_unfit_worker_on_a_clouds_machine_is_given_up_after_three_starts() {
    let mut driven = Driven::running(Policy { max_restarts: 5, dynamic: true, ..policy() });
    for pause in [1, 2] {
        driven.exits(secs(0), ExitClass::Unfit, true);
        assert_eq!(driven.deadline_in(secs(pause)), [Action::Prepare]);
        driven.start();
    }
    driven.exits(secs(0), ExitClass::Unfit, true);
    assert_eq!(driven.outcome(), Some(Outcome::GaveUp));
}

#[test]
fn after_its_last_task_a_worker_is_drained_and_its_end_is_as_one_of_its_own() {
    let mut driven = Driven::greeted(Policy { max_tasks: Some(2), ..policy() });
    for _ in 0..2 {
        assert_eq!(driven.outcome(), None);
        driven.event(Event::TaskStarted);
        let actions = driven.after(secs(2), Event::TaskFinished);
        let last = matches!(driven.machine.state(), State::Stopping(..));
        assert_eq!(actions, if last { vec![TELL_DRAIN] } else { vec![] });
    }
    driven.exits(secs(1), ExitClass::Done, true);
    assert_eq!(driven.outcome(), Some(Outcome::Done));
}

#[test]
fn a_long_last_task_is_the_last_because_the_drain_comes_while_it_runs() {
    let mut driven = Driven::greeted(Policy { max_tasks: Some(1), ..policy() });
    driven.event(Event::TaskStarted);
    assert_eq!(driven.deadline_in(secs(10)), [TELL_DRAIN]);
    assert_eq!(driven.after(secs(500), Event::TaskFinished), []);
    driven.exits(secs(1), ExitClass::Done, true);
    assert_eq!(driven.outcome(), Some(Outcome::Done));
}

#[test]
fn a_worker_that_has_run_for_long_enough_is_drained() {
    let mut driven = Driven::greeted(Policy { max_uptime: Some(secs(3000)), ..policy() });
    assert_eq!(driven.deadline_in(secs(3000)), [TELL_DRAIN]);
    driven.exits(secs(1), ExitClass::Interrupted, true);
    assert_eq!(driven.outcome(), Some(Outcome::Done), "it has ended because it was asked to");
    let mut silent = Driven::running(Policy { max_uptime: Some(secs(3000)), ..policy() });
    assert_eq!(silent.deadline_in(secs(30)), [], "no hello");
    assert_eq!(silent.deadline_in(secs(2970)), [], "it cannot be asked");
    silent.exits(secs(1), ExitClass::Done, true);
    assert_eq!(silent.outcome(), Some(Outcome::Done));
}

#[test]
fn an_operators_request_counts_more_than_a_limit() {
    let mut driven = Driven::greeted(Policy { max_tasks: Some(1), after_run: AfterRun::Reboot, ..policy() });
    driven.event(Event::TaskStarted);
    assert_eq!(driven.event(Event::TaskFinished), [TELL_DRAIN]);
    driven.event(STOP);
    driven.exits(secs(1), ExitClass::Done, true);
    assert_eq!(driven.outcome(), Some(Outcome::Stopped));
}

#[test]
fn an_end_that_nobody_asked_for_takes_the_host_down_and_every_other_does_not() {
    use ExitClass::{BadConfiguration, Crash, Done, Idle, Reboot, Unfit};
    let never = Policy { restart: Restart::Never, force_reboot_time: secs(60), ..policy() };
    for (after_run, power) in
        [(AfterRun::Reboot, Action::RebootHost), (AfterRun::PowerOff, Action::PowerOffHost)]
    {
        for class in [Done, Idle, Reboot, Crash, Unfit, BadConfiguration] {
            for in_place in [true, false] {
                let mut driven = Driven::greeted(Policy { after_run, ..never.clone() });
                let actions = driven.exits(secs(60), class, in_place);
                assert_eq!(actions.last(), Some(&power), "{class:?}");
                let patience = if power == Action::RebootHost { 360 } else { 300 };
                driven.deadline_in(secs(patience));
                assert_eq!(driven.outcome(), Some(Outcome::NeedsReboot), "{class:?}");
            }
            for cause in [STOP, DRAIN, Event::Stop(StopRequest::RUNNER_FAULT)] {
                let mut driven = Driven::greeted(Policy { after_run, ..never.clone() });
                driven.event(cause);
                let actions = driven.exits(secs(60), class, true);
                assert!(!actions.contains(&power), "{class:?} {cause:?}");
            }
        }
    }
    let mut restarted = Driven::greeted(Policy { after_run: AfterRun::Reboot, ..policy() });
    assert_eq!(restarted.exits(secs(60), Crash, true), [], "it is restarted");
    assert_eq!(restarted.deadline_in(secs(1)), [Action::Prepare]);
}

#[test]
fn a_worker_that_is_given_up_is_reported_before_the_host_goes_down() {
    let policy = Policy { restart: Restart::Never, after_run: AfterRun::Reboot, ..policy() };
    let mut driven = Driven::greeted(policy);
    let actions = driven.exits(secs(60), ExitClass::Crash, true);
    assert_eq!(actions, [Action::Report(Outcome::GaveUp), Action::RebootHost]);
}

#[test]
fn an_unfit_worker_is_restarted_ends_the_run_or_makes_the_host_hold() {
    for (on_unfit, dynamic, expected) in [
        (OnUnfit::Restart, false, None),
        (OnUnfit::Restart, true, None),
        (OnUnfit::Exit, false, Some(Outcome::GaveUp)),
        (OnUnfit::Exit, true, Some(Outcome::GaveUp)),
        (OnUnfit::Hold, false, Some(Outcome::Unfit)),
        (OnUnfit::Hold, true, Some(Outcome::GaveUp)),
        (OnUnfit::Quarantine, false, Some(Outcome::Unfit)),
        (OnUnfit::Quarantine, true, Some(Outcome::GaveUp)),
    ] {
        let mut driven = Driven::greeted(Policy { on_unfit, dynamic, ..policy() });
        driven.exits(secs(60), ExitClass::Unfit, true);
        assert_eq!(driven.outcome(), expected, "{on_unfit:?}, dynamic {dynamic}");
        let mut stopped = Driven::greeted(Policy { on_unfit, dynamic, ..policy() });
        stopped.event(STOP);
        stopped.exits(secs(1), ExitClass::Unfit, true);
        assert_eq!(stopped.outcome(), Some(Outcome::Stopped), "{on_unfit:?}, dynamic {dynamic}");
    }
}

/// Greeted, and then held while its worker runs.
fn held(policy: Policy) -> Driven {
    let mut driven = Driven::greeted(policy);
    assert_eq!(driven.event(Event::Held), []);
    assert!(matches!(driven.machine.state(), State::Running(_)), "the present worker goes on");
    driven
}

#[test]
fn on_a_held_host_no_start_follows_an_exit_until_the_host_is_resumed() {
    for (restart, class) in [
        (Restart::OnFailure, ExitClass::Crash),
        (Restart::Always, ExitClass::Done),
        (Restart::Always, ExitClass::Idle),
    ] {
        let mut driven = held(Policy { restart, ..policy() });
        assert_eq!(driven.exits(secs(60), class, true), []);
        assert_eq!((driven.machine.state(), driven.machine.deadline()), (&State::Holding, None), "{class:?}");
        assert_eq!(driven.after(secs(100_000), Event::Released), [Action::Prepare], "{class:?}");
    }
}

#[test]
fn on_a_held_host_a_start_that_has_no_process_yet_waits_and_one_that_is_executed_goes_on() {
    let mut driven = Driven::new(policy());
    driven.event(Event::Held);
    assert_eq!(driven.machine.state(), &State::Holding);
    assert_eq!(driven.event(Event::Prepared), []);
    assert_eq!(driven.machine.state(), &State::Holding);
    assert_eq!(driven.event(Event::Released), [Action::Prepare]);
    assert_eq!(driven.event(Event::Prepared), [Action::Spawn]);
    driven.event(Event::Held);
    assert_eq!(driven.event(Event::Started { pid: 7 }), []);
    assert!(matches!(driven.machine.state(), State::Running(_)));
}

#[test]
fn on_a_held_host_a_pause_before_a_start_and_a_reboot_that_does_not_come_end_in_holding() {
    let mut driven = Driven::greeted(policy());
    driven.exits(secs(60), ExitClass::Crash, true);
    driven.event(Event::Held);
    assert_eq!(driven.machine.state(), &State::Holding);
    let mut driven = held(policy());
    driven.exits(secs(60), ExitClass::Reboot, true);
    driven.now = driven.machine.deadline().unwrap();
    assert_eq!(driven.event(Event::Deadline), []);
    assert_eq!(driven.machine.state(), &State::Holding);
}

#[test]
fn a_held_host_that_is_resumed_in_time_goes_on_as_if_it_had_not_been_held() {
    let mut driven = held(policy());
    assert_eq!(driven.event(Event::Released), []);
    driven.exits(secs(60), ExitClass::Crash, true);
    assert!(matches!(driven.machine.state(), State::BackingOff { .. }));
}

#[test]
fn every_request_to_end_is_granted_at_once_while_no_worker_is_started() {
    for (request, outcome) in [
        (STOP, Outcome::Stopped),
        (DRAIN, Outcome::Stopped),
        (
            Event::Asked { strength: Strength::Drain, cause: Cause::Redeploy },
            Outcome::Redeploy { in_place: true },
        ),
        (
            Event::Asked { strength: Strength::Stop, cause: Cause::CredentialsExpiring },
            Outcome::CredentialsExpired,
        ),
        (
            Event::Interrupted {
                strength: Strength::Stop,
                cause: Cause::Interruption { ends: true },
                within: Some(secs(120)),
            },
            Outcome::Interrupted { ends: true },
        ),
    ] {
        let mut driven = held(policy());
        driven.exits(secs(60), ExitClass::Crash, true);
        assert_eq!(driven.event(request), []);
        assert_eq!(driven.outcome(), Some(outcome), "{request:?}");
    }
}
