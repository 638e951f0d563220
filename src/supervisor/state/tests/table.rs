//! The table cause × exit, every cell: the supervisor's decision. (The lifecycle decides about the consequences for the
//! machine.)

use super::*;

/// The decision after an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Ends(Outcome),
    Marks,
    StartsAgain,
    BacksOff,
    Awaits,
    RebootsHost,
}

fn then(driven: &mut Driven, actions: &[Action]) -> Then {
    match driven.machine.state() {
        State::Ended(Outcome::Held) if actions == [Action::MarkHeld] => Then::Marks,
        State::Ended(outcome) => Then::Ends(*outcome),
        State::BackingOff { .. } => Then::BacksOff,
        State::AwaitingReboot { .. } if actions == [Action::RebootHost] => Then::RebootsHost,
        State::AwaitingReboot { .. } => Then::Awaits,
        State::Preparing => Then::StartsAgain,
        State::Lingering { .. } => {
            let actions = driven.deadline_in(secs(2));
            then(driven, &actions)
        }
        other => panic!("{other:?}"),
    }
}

fn after_exit(policy: Policy, cause: Option<Event>, class: ExitClass, in_place: bool) -> Then {
    let mut driven = Driven::greeted(policy);
    if let Some(event) = cause {
        driven.event(event);
    }
    let actions = driven.exits(secs(60), class, in_place);
    then(&mut driven, &actions)
}

const CLASSES: [ExitClass; 7] = [
    ExitClass::Done,
    ExitClass::Interrupted,
    ExitClass::Reboot,
    ExitClass::Idle,
    ExitClass::BadConfiguration,
    ExitClass::Unfit,
    ExitClass::Crash,
];

#[test]
fn an_operators_stop_ends_well_whatever_the_exit() {
    for class in CLASSES {
        for in_place in [true, false] {
            let then = after_exit(policy(), Some(STOP), class, in_place);
            assert_eq!(then, Then::Ends(Outcome::Stopped), "{class:?}");
        }
    }
}

#[test]
fn an_operators_drain_ends_well_and_one_that_is_meant_once_is_remembered_over_the_workers_reboot() {
    for class in CLASSES {
        let expected = if class == ExitClass::Reboot { Then::Marks } else { Then::Ends(Outcome::Stopped) };
        assert_eq!(after_exit(policy(), Some(DRAIN_ONCE), class, true), expected, "{class:?}");
        // SIGUSR1; and a drain whose marker is there already.
        let then = after_exit(policy(), Some(DRAIN), class, true);
        assert_eq!(then, Then::Ends(Outcome::Stopped), "{class:?}");
    }
}

#[test]
fn credentials_that_run_out_are_a_failure_whatever_the_exit() {
    for strength in [Strength::Drain, Strength::Stop] {
        for class in CLASSES {
            let cause = Event::Asked { strength, cause: Cause::CredentialsExpiring };
            let then = after_exit(policy(), Some(cause), class, true);
            assert_eq!(then, Then::Ends(Outcome::CredentialsExpired), "{class:?}");
        }
    }
}

#[test]
fn a_runner_that_is_broken_fails_whatever_the_exit() {
    for class in CLASSES {
        let cause = Event::Asked { strength: Strength::Drain, cause: Cause::RunnerFault };
        assert_eq!(
            after_exit(policy(), Some(cause), class, true),
            Then::Ends(Outcome::RunnerFailed),
            "{class:?}"
        );
    }
}

#[test]
fn the_operators_cause_counts_more_than_the_credentials() {
    let mut driven = Driven::greeted(policy());
    driven.event(STOP);
    driven.event(Event::Asked { strength: Strength::Stop, cause: Cause::CredentialsExpiring });
    driven.exits(secs(1), ExitClass::Done, true);
    assert_eq!(driven.outcome(), Some(Outcome::Stopped));
}

#[test]
fn without_a_cause_the_exit_decides() {
    use ExitClass::{BadConfiguration, Crash, Done, Idle, Interrupted};
    use Restart::{Always, Never, OnFailure};
    let done = Then::Ends(Outcome::Done);
    let gave_up = Then::Ends(Outcome::GaveUp);
    let needs_reboot = Then::Ends(Outcome::NeedsReboot);
    for (class, restart, in_place, expected) in [
        (Done, Never, true, done),
        (Done, OnFailure, true, done),
        (Done, OnFailure, false, done),
        (Done, Always, true, Then::BacksOff),
        (Done, Always, false, needs_reboot),
        (Idle, Never, true, done),
        (Idle, OnFailure, true, done),
        (Idle, Always, true, Then::BacksOff),
        (Idle, Always, false, needs_reboot),
        (BadConfiguration, Never, true, gave_up),
        (BadConfiguration, OnFailure, true, gave_up),
        (BadConfiguration, OnFailure, false, gave_up),
        (BadConfiguration, Always, true, gave_up),
        (Crash, Never, true, gave_up),
        (Crash, OnFailure, true, Then::BacksOff),
        (Crash, Always, true, Then::BacksOff),
        (Crash, Never, false, needs_reboot),
        (Crash, OnFailure, false, needs_reboot),
        (Crash, Always, false, needs_reboot),
        (Interrupted, Never, true, gave_up),
        (Interrupted, OnFailure, true, Then::BacksOff),
        (Interrupted, OnFailure, false, needs_reboot),
        (Interrupted, Always, true, Then::BacksOff),
    ] {
        let policy = Policy { restart, ..policy() };
        assert_eq!(after_exit(policy, None, class, in_place), expected, "{class:?} {restart:?} {in_place}");
    }
}

#[test]
fn a_reboot_exit_is_what_on_reboot_says() {
    use RebootPolicy::{Exit, Reboot, Restart, RestartIfPossible, Wait};
    for (on_reboot, in_place, expected) in [
        (Wait, true, Then::Awaits),
        (Wait, false, Then::Awaits),
        (RestartIfPossible, true, Then::StartsAgain),
        (RestartIfPossible, false, Then::Awaits),
        (Restart, true, Then::StartsAgain),
        (Restart, false, Then::Ends(Outcome::NeedsReboot)),
        (Reboot, true, Then::RebootsHost),
        (Reboot, false, Then::RebootsHost),
        (Exit, true, Then::Ends(Outcome::NeedsReboot)),
        (Exit, false, Then::Ends(Outcome::NeedsReboot)),
    ] {
        let policy = Policy { on_reboot, ..policy() };
        assert_eq!(
            after_exit(policy, None, ExitClass::Reboot, in_place),
            expected,
            "{on_reboot:?} {in_place}"
        );
    }
}

#[test]
fn a_crash_that_needs_a_reboot_gets_one_where_the_runner_reboots() {
    let policy = Policy { on_reboot: RebootPolicy::Reboot, ..policy() };
    assert_eq!(after_exit(policy, None, ExitClass::Crash, false), Then::RebootsHost);
}

#[test]
fn a_reboot_that_does_not_come_is_made_up_for_in_place_or_told() {
    let mut driven = Driven::greeted(policy());
    driven.exits(secs(60), ExitClass::Reboot, true);
    assert_eq!(driven.deadline_in(secs(300)), [Action::Prepare]);
    let mut driven = Driven::greeted(policy());
    driven.exits(secs(60), ExitClass::Reboot, false);
    assert_eq!(driven.deadline_in(secs(300)), []);
    assert_eq!(driven.outcome(), Some(Outcome::NeedsReboot));
}

#[test]
fn the_sigterm_of_a_reboot_that_comes_ends_well() {
    let mut driven = Driven::greeted(policy());
    driven.exits(secs(60), ExitClass::Reboot, false);
    driven.after(secs(3), STOP);
    assert_eq!(driven.outcome(), Some(Outcome::Stopped));
}

#[test]
fn a_restart_after_a_reboot_exit_counts_as_a_crash_when_the_run_was_short() {
    let policy = Policy { on_reboot: RebootPolicy::Restart, max_restarts: 0, ..policy() };
    let mut driven = Driven::greeted(policy.clone());
    driven.exits(secs(29), ExitClass::Reboot, true);
    assert_eq!(driven.outcome(), Some(Outcome::GaveUp));
    let mut driven = Driven::greeted(policy);
    assert_eq!(driven.exits(secs(30), ExitClass::Reboot, true), [Action::Prepare]);
}

#[test]
fn an_interruption_counts_more_than_any_exit() {
    for (cause, ends) in [
        (Cause::Interruption { ends: true }, true),
        (Cause::Interruption { ends: false }, false),
        (Cause::Rebalance, true),
    ] {
        for class in CLASSES {
            for dynamic in [true, false] {
                let event = Event::Interrupted { strength: Strength::Drain, cause, within: None };
                let then = after_exit(Policy { dynamic, ..policy() }, Some(event), class, true);
                assert_eq!(then, Then::Ends(Outcome::Interrupted { ends }), "{cause:?} {class:?}");
            }
        }
    }
}

const REDEPLOY: Event = Event::Asked { strength: Strength::Drain, cause: Cause::Redeploy };

#[test]
fn a_redeploy_makes_way_whatever_the_exit() {
    for class in CLASSES {
        for in_place in [true, false] {
            let redeploy = Then::Ends(Outcome::Redeploy { in_place });
            let dynamic = Policy { dynamic: true, ..policy() };
            assert_eq!(after_exit(dynamic, Some(REDEPLOY), class, in_place), redeploy, "{class:?}");
            if class != ExitClass::Reboot {
                assert_eq!(after_exit(policy(), Some(REDEPLOY), class, in_place), redeploy, "{class:?}");
            }
        }
    }
}

#[test]
fn a_redeploy_that_ends_in_a_reboot_forgets_the_run_and_then_does_as_on_reboot_says() {
    use RebootPolicy::{Exit, Reboot, Restart, RestartIfPossible, Wait};
    let ends = |outcome| State::Ended(outcome);
    let awaits =
        State::AwaitingReboot { in_place: true, until: secs(360), expired: false, powers_off: false };
    for (on_reboot, actions, state) in [
        (Wait, vec![Action::ForgetRun], awaits),
        (Reboot, vec![Action::ForgetRun, Action::RebootHost], awaits),
        (Exit, vec![Action::ForgetRun], ends(Outcome::NeedsReboot)),
        (Restart, vec![], ends(Outcome::Redeploy { in_place: true })),
        (RestartIfPossible, vec![], ends(Outcome::Redeploy { in_place: true })),
    ] {
        let mut driven = Driven::greeted(Policy { on_reboot, ..policy() });
        driven.event(REDEPLOY);
        assert_eq!(driven.exits(secs(60), ExitClass::Reboot, true), actions, "{on_reboot:?}");
        assert_eq!(*driven.machine.state(), state, "{on_reboot:?}");
    }
}

#[test]
fn a_worker_that_is_always_restarted_and_cannot_be_without_a_reboot_has_its_host_rebooted_where_that_is_wanted()
 {
    let policy = Policy { restart: Restart::Always, on_reboot: RebootPolicy::Reboot, ..policy() };
    for class in [ExitClass::Done, ExitClass::Idle, ExitClass::Crash] {
        assert_eq!(after_exit(policy.clone(), None, class, false), Then::RebootsHost, "{class:?}");
    }
}

#[test]
fn a_stuck_worker_ends_the_supervision_in_the_causes_way() {
    let interrupted = |ends| Event::Interrupted {
        strength: Strength::Stop,
        cause: Cause::Interruption { ends },
        within: None,
    };
    let asked = |cause| Event::Asked { strength: Strength::Stop, cause };
    for (event, dynamic, leaves) in [
        (STOP, true, false),
        (STOP, false, false),
        (Event::Stop(StopRequest::RUNNER_FAULT), true, false),
        (interrupted(true), true, true),
        (interrupted(false), true, false),
        (asked(Cause::Rebalance), true, true),
        (asked(Cause::Redeploy), true, true),
        (asked(Cause::Redeploy), false, false),
        (asked(Cause::CredentialsExpiring), true, true),
        (asked(Cause::CredentialsExpiring), false, false),
        (asked(Cause::NewCredentials), true, true),
        (asked(Cause::NewCredentials), false, false),
    ] {
        let mut driven = Driven::greeted(Policy { dynamic, ..policy() });
        driven.event(event);
        while !matches!(driven.machine.state(), State::Clearing(..)) {
            driven.now = driven.machine.deadline().unwrap();
            driven.event(Event::Deadline);
        }
        assert_eq!(driven.event(Event::Settled { in_place: true }), [], "{event:?} {dynamic}");
        assert_eq!(driven.outcome(), Some(Outcome::Stuck { leaves }), "{event:?} {dynamic}");
    }
}

#[test]
fn a_restart_in_place_matters_where_the_decision_depends_on_it() {
    use ExitClass::{BadConfiguration, Crash, Done, Idle, Interrupted, Reboot};
    let (fixed, always) = (policy(), Policy { restart: Restart::Always, ..policy() });
    let restarts = Policy { on_reboot: RebootPolicy::RestartIfPossible, ..policy() };
    let cloud = Policy { dynamic: true, ..policy() };
    let cloud_always = Policy { dynamic: true, ..always.clone() };
    for (policy, cause, class, matters) in [
        (&fixed, None, Done, false),
        (&always, None, Done, true),
        (&always, None, Idle, true),
        (&cloud_always, None, Done, false),
        (&always, Some(STOP), Done, false),
        (&fixed, None, BadConfiguration, false),
        (&fixed, None, Crash, true),
        (&fixed, None, Interrupted, true),
        (&cloud, None, Crash, true),
        (&fixed, Some(STOP), Crash, false),
        (&fixed, Some(DRAIN), Reboot, false),
        (&restarts, None, Reboot, true),
        (&fixed, Some(REDEPLOY), Done, true),
    ] {
        let mut driven = Driven::greeted(policy.clone());
        cause.map(|event| driven.event(event));
        driven.after(secs(60), Event::Exited(exit(class)));
        assert_eq!(
            driven.machine.restart_in_place_matters(driven.now),
            matters,
            "{cause:?} {class:?} {policy:?}"
        );
    }
}

#[test]
fn on_a_machine_that_goes_with_its_worker_nothing_is_started_again_but_after_a_crash_in_place() {
    use ExitClass::{BadConfiguration, Crash, Done, Idle};
    let done = Then::Ends(Outcome::Done);
    let gave_up = Then::Ends(Outcome::GaveUp);
    for (class, restart, in_place, expected) in [
        (Done, Restart::Always, true, done),
        (Idle, Restart::Always, true, done),
        (Done, Restart::OnFailure, true, done),
        (BadConfiguration, Restart::OnFailure, true, gave_up),
        (Crash, Restart::OnFailure, true, Then::BacksOff),
        (Crash, Restart::OnFailure, false, gave_up),
        (Crash, Restart::Never, true, gave_up),
    ] {
        let policy = Policy { restart, dynamic: true, ..policy() };
        assert_eq!(after_exit(policy, None, class, in_place), expected, "{class:?} {restart:?} {in_place}");
    }
}

#[test]
fn a_reboot_message_makes_the_runner_reboot_the_host_whatever_on_reboot_and_the_exit_say() {
    use RebootPolicy::{Exit, Restart, RestartIfPossible, Wait};
    for on_reboot in [Wait, Exit, Restart, RestartIfPossible] {
        for class in CLASSES {
            for dynamic in [true, false] {
                let mut driven = Driven::greeted(Policy { on_reboot, dynamic, ..policy() });
                assert_eq!(driven.event(Event::RebootAsked), []);
                let actions = driven.exits(secs(60), class, true);
                assert_eq!(then(&mut driven, &actions), Then::RebootsHost, "{on_reboot:?} {class:?}");
            }
        }
    }
}

#[test]
fn a_drained_worker_that_asks_for_a_reboot_is_held_after_it() {
    let mut driven = Driven::greeted(policy());
    driven.event(DRAIN_ONCE);
    driven.event(Event::RebootAsked);
    assert_eq!(driven.exits(secs(60), ExitClass::Done, true), [Action::MarkHeld]);
}

#[test]
fn a_start_that_fails_for_a_passing_reason_counts_as_a_crash_and_any_other_is_final() {
    use Restart::{Always, Never, OnFailure};
    const FINAL: Event = Event::StartFailed { passing: false };
    const PASSING: Event = Event::StartFailed { passing: true };
    let failed = Then::Ends(Outcome::StartFailed);
    for (event, restart, expected) in [
        (FINAL, Never, failed),
        (FINAL, OnFailure, failed),
        (FINAL, Always, failed),
        (PASSING, Never, failed),
        (PASSING, OnFailure, Then::BacksOff),
        (PASSING, Always, Then::BacksOff),
    ] {
        for dynamic in [true, false] {
            // While the files are written, and while the program is executed.
            for first in [None, Some(Event::Prepared)] {
                let mut driven = Driven::new(Policy { restart, dynamic, ..policy() });
                first.map(|event| driven.event(event));
                let actions = driven.event(event);
                assert_eq!(then(&mut driven, &actions), expected, "{event:?} {restart:?} {dynamic}");
            }
        }
    }
}

#[test]
fn a_reason_that_does_not_pass_is_given_up_on_after_growing_pauses() {
    let mut driven = Driven::new(policy());
    for pause in [1, 2, 4] {
        driven.event(Event::Prepared);
        assert_eq!(driven.event(Event::StartFailed { passing: true }), []);
        assert_eq!(driven.deadline_in(secs(pause)), [Action::Prepare]);
    }
    driven.event(Event::StartFailed { passing: true });
    assert_eq!(driven.outcome(), Some(Outcome::StartFailed));
}

#[test]
fn a_stop_does_not_wait_long_for_a_program_that_is_never_executed() {
    let kill = Event::Asked { strength: Strength::Kill, cause: Cause::Operator };
    let stop = Event::Asked { strength: Strength::Stop, cause: Cause::Operator };
    for (event, waits) in [(stop, secs(5)), (kill, secs(1))] {
        let mut driven = Driven::new(policy());
        driven.event(Event::Prepared);
        assert_eq!(driven.event(event), []);
        assert_eq!(driven.deadline_in(waits), [Action::AbandonSpawn]);
        assert_eq!(driven.outcome(), Some(Outcome::Stopped));
    }
    let mut driven = Driven::new(policy());
    driven.event(Event::Prepared);
    driven.event(DRAIN);
    assert_eq!(driven.machine.deadline(), None);
    driven.event(Event::StartFailed { passing: true });
    assert_eq!(driven.outcome(), Some(Outcome::Stopped));
}
