//! Random sequences of events that check the invariants and cover the diagram, and a planted fault for each invariant.

use std::collections::BTreeMap;

use super::invariants::*;
use super::world::{Decides, Random, Truth, World};
use super::*;

const SEQUENCES: u64 = 200_000;
const EVENTS: u64 = 50;

/// A stop with more deadlines than this does not end.
const LADDER: u32 = 40;

fn random_policy(random: &mut Random) -> Policy {
    let on_reboot = [
        RebootPolicy::Wait,
        RebootPolicy::RestartIfPossible,
        RebootPolicy::Restart,
        RebootPolicy::Reboot,
        RebootPolicy::Exit,
    ];
    Policy {
        restart: random.one_of(&[Restart::Never, Restart::OnFailure, Restart::Always]),
        max_restarts: u32::try_from(random.below(4)).unwrap(),
        kill_descendants: !random.chance(4),
        backoff_initial: secs(random.below(2)),
        drain_timeout: secs(random.one_of(&[5, 100, 3600])),
        on_reboot: random.one_of(&on_reboot),
        after_run: if random.chance(2) {
            AfterRun::Exit
        } else {
            random.one_of(&[AfterRun::Reboot, AfterRun::PowerOff])
        },
        on_unfit: random.one_of(&[OnUnfit::Restart, OnUnfit::Restart, OnUnfit::Exit, OnUnfit::Hold]),
        max_tasks: random.one_of(&[None, None, Some(1), Some(2)]),
        max_uptime: random.one_of(&[None, None, Some(secs(1)), Some(secs(1000))]),
        shutdown_host: random.chance(2),
        dynamic: random.chance(3),
        ..policy()
    }
}

type Edge = (&'static str, &'static str);

fn name(state: &State) -> &'static str {
    match state {
        State::Preparing => "Preparing",
        State::Spawning(_) => "Spawning",
        State::Running(_) => "Running",
        State::Stopping(_, _, Ladder::AwaitingHello(_)) => "AwaitingHello",
        State::Stopping(_, _, Ladder::Unasked(_)) => "Unasked",
        State::Stopping(_, _, Ladder::Told { .. }) => "Told",
        State::Stopping(_, _, Ladder::Terminated { .. }) => "Terminated",
        State::Stopping(_, _, Ladder::Killed { .. }) => "Killed",
        State::Clearing(ended, ..) if ended.exit == Exit::STUCK => "GivenUp",
        State::Clearing(..) => "Clearing",
        State::Lingering { .. } => "Lingering",
        State::BackingOff { .. } => "BackingOff",
        State::Holding => "Holding",
        State::AwaitingReboot { .. } => "AwaitingReboot",
        State::Ended(_) => "Ended",
    }
}

/// Runs one sequence. An operator's stop must then end it, although the worker only dies of SIGKILL.
fn sequence(
    seed: u64,
    make: &impl Fn(Policy) -> Box<dyn Decides>,
    edges: &mut BTreeMap<Edge, u64>,
) -> Result<(), Broken> {
    let mut random = Random::new(seed);
    let policy = random_policy(&mut random);
    let mut machine = make(policy.clone());
    let mut checker = Checker::new(policy);
    // In every third sequence there are no requests before the end: workers crash and are restarted.
    let mut world = World::new(seed.is_multiple_of(3));
    let mut step = |world: &mut World, machine: &mut Box<dyn Decides>, event: Event| {
        let before = machine.state();
        let actions = machine.handle(world.now, event);
        let after = machine.state();
        checker.check(world, event, &actions, (&after, machine.deadline()))?;
        if event == Event::Deadline {
            checker.check_deadline(world.now, machine.deadline())?;
        }
        world.advance(event, &actions);
        *edges.entry((name(&before), name(&after))).or_default() += 1;
        Ok::<_, Broken>(actions)
    };
    for _ in 0..EVENTS {
        let event = world.next(&mut random, machine.deadline());
        step(&mut world, &mut machine, event)?;
    }
    step(&mut world, &mut machine, STOP)?;
    for _ in 0..LADDER {
        if matches!(machine.state(), State::Ended(_)) {
            return Ok(());
        }
        let event = match world.truth {
            Truth::Preparing => Event::Prepared,
            Truth::Spawning if seed.is_multiple_of(2) => Event::Started { pid: 7 },
            Truth::Gone if machine.deadline().is_none() => Event::Settled { in_place: true },
            _ => {
                world.now = machine.deadline().ok_or(NO_END)?.max(world.now);
                Event::Deadline
            }
        };
        let actions = step(&mut world, &mut machine, event)?;
        // In every fourth sequence the worker is stuck in the kernel.
        if actions.contains(&Action::Kill) && !seed.is_multiple_of(4) {
            step(&mut world, &mut machine, Event::Exited(exit(ExitClass::Crash)))?;
        }
        if actions.contains(&Action::AbandonLeftovers) {
            step(&mut world, &mut machine, Event::Settled { in_place: true })?;
        }
    }
    Err(NO_END)
}

/// The first broken invariant in many sequences, with its seed.
fn first_broken(sequences: u64, make: impl Fn(Policy) -> Box<dyn Decides>) -> Option<(u64, Broken)> {
    let mut edges = BTreeMap::new();
    (0..sequences).find_map(|seed| sequence(seed, &make, &mut edges).err().map(|broken| (seed, broken)))
}

/// Every edge of the diagrams in `state` and `state::stop`.
const DIAGRAM: [Edge; 62] = [
    ("Preparing", "Holding"),
    ("Spawning", "Holding"),
    ("Clearing", "Holding"),
    ("Lingering", "Holding"),
    ("BackingOff", "Holding"),
    ("AwaitingReboot", "Holding"),
    ("Holding", "Preparing"),
    ("Holding", "Ended"),
    ("Holding", "Holding"),
    ("Preparing", "Spawning"),
    ("Preparing", "Ended"),
    ("Preparing", "BackingOff"),
    ("Preparing", "Preparing"),
    ("Spawning", "BackingOff"),
    ("Spawning", "Preparing"),
    ("Spawning", "Running"),
    ("Spawning", "AwaitingHello"),
    ("Spawning", "Ended"),
    ("Running", "AwaitingHello"),
    ("Running", "Unasked"),
    ("Running", "Told"),
    ("Running", "Terminated"),
    ("Spawning", "Killed"),
    ("Running", "Killed"),
    ("Running", "Clearing"),
    ("AwaitingHello", "Told"),
    ("AwaitingHello", "Unasked"),
    ("AwaitingHello", "Terminated"),
    ("AwaitingHello", "Killed"),
    ("AwaitingHello", "Clearing"),
    ("Unasked", "Told"),
    ("Unasked", "Terminated"),
    ("Unasked", "Killed"),
    ("Unasked", "Clearing"),
    ("Told", "Terminated"),
    ("Told", "Killed"),
    ("Told", "Clearing"),
    ("Terminated", "Killed"),
    ("Terminated", "Clearing"),
    ("Killed", "Killed"),
    ("Killed", "Clearing"),
    ("Killed", "GivenUp"),
    ("GivenUp", "Ended"),
    ("Clearing", "Clearing"),
    ("Clearing", "Lingering"),
    ("Clearing", "BackingOff"),
    ("Clearing", "AwaitingReboot"),
    ("Clearing", "Preparing"),
    ("Clearing", "Ended"),
    ("Lingering", "BackingOff"),
    ("Lingering", "AwaitingReboot"),
    ("Lingering", "Preparing"),
    ("Lingering", "Ended"),
    ("BackingOff", "Preparing"),
    ("BackingOff", "Ended"),
    ("AwaitingReboot", "Preparing"),
    ("AwaitingReboot", "Ended"),
    ("Told", "Told"),
    ("Running", "Running"),
    ("AwaitingHello", "AwaitingHello"),
    ("Unasked", "Unasked"),
    ("Terminated", "Terminated"),
];

#[test]
fn no_sequence_of_events_breaks_an_invariant_and_every_edge_is_taken() {
    let make = |policy| -> Box<dyn Decides> { Box::new(Machine::new(policy).0) };
    let mut edges = BTreeMap::new();
    for seed in 0..SEQUENCES {
        if let Err(broken) = sequence(seed, &make, &mut edges) {
            panic!("seed {seed}: {broken}");
        }
    }
    for edge in DIAGRAM {
        let count = edges.get(&edge).copied().unwrap_or_default();
        assert!(count > 0, "never taken: {edge:?}");
        println!("{count:>10}  {} -> {}", edge.0, edge.1);
    }
    for (edge, count) in edges {
        let known = DIAGRAM.contains(&edge) || edge.0 == edge.1;
        assert!(known, "taken {count} times and not in the diagram: {edge:?}");
    }
}

/// The machine with a fault planted into its answers.
struct Faulty<F> {
    machine: Machine,
    ended_early: bool,
    fault: F,
}

/// The part of an answer that a fault sees and may change.
struct Answer<'a> {
    before: State,
    event: Event,
    actions: &'a mut Vec<Action>,
    end_early: &'a mut bool,
}

impl<F: FnMut(&mut Answer<'_>)> Decides for Faulty<F> {
    fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        let before = *self.machine.state();
        let mut actions = self.machine.handle(now, event);
        (self.fault)(&mut Answer { before, event, actions: &mut actions, end_early: &mut self.ended_early });
        actions
    }

    fn deadline(&self) -> Option<Moment> {
        self.machine.deadline()
    }

    fn state(&self) -> State {
        if self.ended_early { State::Ended(Outcome::Done) } else { *self.machine.state() }
    }
}

fn caught(fault: impl FnMut(&mut Answer<'_>) + Clone + 'static) -> Broken {
    let make = move |policy| -> Box<dyn Decides> {
        Box::new(Faulty { machine: Machine::new(policy).0, ended_early: false, fault: fault.clone() })
    };
    first_broken(2000, make).expect("the planted fault is not caught").1
}

#[test]
fn a_second_worker_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        if matches!((answer.before, answer.event), (State::Running(_), Event::TaskStarted)) {
            answer.actions.push(Action::Spawn);
        }
    };
    assert_eq!(caught(fault), TWO_WORKERS);
}

#[test]
fn an_end_while_the_worker_lives_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        *answer.end_early |= matches!((answer.before, answer.event), (State::Running(_), STOP));
    };
    assert_eq!(caught(fault), CHILD_LOST);
}

#[test]
fn a_weakened_stop_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        let drain = matches!(answer.event, Event::Asked { strength: Strength::Drain, .. });
        if drain && matches!(answer.before, State::Stopping(_, _, Ladder::Terminated { .. })) {
            answer.actions.push(Action::Tell { finish_tasks: true });
        }
    };
    assert_eq!(caught(fault), WEAKER);
}

#[test]
fn a_message_sent_twice_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        if let Some(tell) =
            answer.actions.iter().copied().find(|action| matches!(action, Action::Tell { .. }))
        {
            answer.actions.push(tell);
        }
    };
    assert_eq!(caught(fault), WEAKER);
}

#[test]
fn a_drain_that_signals_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        let drain = matches!(answer.event, Event::Asked { strength: Strength::Drain, .. });
        if drain && matches!(answer.before, State::Running(_)) {
            answer.actions.push(Action::Terminate);
        }
    };
    assert_eq!(caught(fault), DRAIN_SIGNALS);
}

#[test]
fn a_worker_that_is_continued_again_and_again_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        if matches!((answer.before, answer.event), (State::Running(_), Event::WorkerStopped { .. })) {
            answer.actions.push(Action::Continue);
        }
    };
    assert_eq!(caught(fault), CONTINUED_AGAIN);
}

#[test]
fn a_stop_that_never_ends_is_caught() {
    struct Deaf(Machine);
    impl Decides for Deaf {
        fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
            let kills = matches!(self.0.state(), State::Stopping(_, _, Ladder::Terminated { .. }));
            if event == Event::Deadline && kills { Vec::new() } else { self.0.handle(now, event) }
        }
        fn deadline(&self) -> Option<Moment> {
            let kills = matches!(self.0.state(), State::Stopping(_, _, Ladder::Terminated { .. }));
            if kills { None } else { self.0.deadline() }
        }
        fn state(&self) -> State {
            *self.0.state()
        }
    }
    let broken = first_broken(2000, |policy| -> Box<dyn Decides> { Box::new(Deaf(Machine::new(policy).0)) });
    // On a machine with a deadline, it is late first.
    assert!([NO_END, LATE].contains(&broken.expect("not caught").1));
}

#[test]
fn a_worker_that_is_killed_again_and_again_is_caught() {
    struct Stubborn(Machine, Moment);
    impl Stubborn {
        fn is_killing(&self) -> bool {
            matches!(self.0.state(), State::Stopping(_, _, Ladder::Killed { again: true, .. }))
        }
    }
    impl Decides for Stubborn {
        fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
            if event == Event::Deadline && self.is_killing() {
                self.1 = now + secs(10);
                return vec![Action::Kill];
            }
            self.0.handle(now, event)
        }
        fn deadline(&self) -> Option<Moment> {
            self.0.deadline().map(|deadline| if self.is_killing() { deadline.max(self.1) } else { deadline })
        }
        fn state(&self) -> State {
            *self.0.state()
        }
    }
    let make = |policy| -> Box<dyn Decides> { Box::new(Stubborn(Machine::new(policy).0, Duration::ZERO)) };
    assert_eq!(first_broken(2000, make).expect("not caught").1, ENDLESS);
}

#[test]
fn a_worker_that_is_given_up_before_sigkill_could_end_it_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        if answer.actions.contains(&Action::Kill) {
            answer.actions.push(Action::GiveUp);
        }
    };
    assert_eq!(caught(fault), GIVEN_UP_EARLY);
}

#[test]
fn a_start_beside_a_stuck_worker_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        let stuck = matches!(answer.before, State::Clearing(ended, ..) if ended.exit == Exit::STUCK);
        if stuck && matches!(answer.event, Event::Settled { .. }) {
            answer.actions.push(Action::Prepare);
        }
    };
    assert_eq!(caught(fault), BESIDE_A_STUCK_WORKER);
}

#[test]
fn an_action_after_the_end_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        if matches!(answer.before, State::Ended(_)) {
            answer.actions.push(Action::MarkHeld);
        }
    };
    assert_eq!(caught(fault), AFTER_END);
}

#[test]
fn a_start_on_a_held_host_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        if answer.before == State::Holding && matches!(answer.event, Event::TaskStarted) {
            answer.actions.push(Action::Prepare);
        }
    };
    assert_eq!(caught(fault), STARTED_WHILE_HELD);
}

#[test]
fn a_host_that_goes_on_holding_after_it_was_resumed_is_caught() {
    struct Deaf(Machine);
    impl Decides for Deaf {
        fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
            if event == Event::Released { Vec::new() } else { self.0.handle(now, event) }
        }
        fn deadline(&self) -> Option<Moment> {
            self.0.deadline()
        }
        fn state(&self) -> State {
            *self.0.state()
        }
    }
    let broken = first_broken(2000, |policy| -> Box<dyn Decides> { Box::new(Deaf(Machine::new(policy).0)) });
    assert_eq!(broken.expect("not caught").1, NOT_RESUMED);
}

#[test]
fn a_marker_that_nobody_asked_for_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        let drained = matches!(answer.before, State::Clearing(_, Some(request), _) if !request.hold);
        if drained && matches!(answer.event, Event::Settled { .. }) {
            answer.actions.push(Action::MarkHeld);
        }
    };
    assert_eq!(caught(fault), MARKED);
}

#[test]
fn a_second_shutdown_of_the_host_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        if matches!((answer.before, answer.event), (State::Stopping(..), Event::ShutdownAsked)) {
            answer.actions.push(Action::ShutDownHost);
        }
    };
    assert_eq!(caught(fault), POWER_TWICE);
}

#[test]
fn a_host_that_is_taken_down_after_an_operators_stop_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        let stopped =
            matches!(answer.before, State::Clearing(_, Some(Request { cause: Cause::Operator, .. }), _));
        if stopped && matches!(answer.event, Event::Settled { .. }) {
            answer.actions.push(Action::PowerOffHost);
        }
    };
    assert_eq!(caught(fault), DOWN_AFTER_STOP);
}

#[test]
fn a_restart_after_an_operators_stop_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        let stopped = matches!(
            answer.before,
            State::Clearing(ended, Some(Request { cause: Cause::Operator, .. }), _) if ended.exit != Exit::STUCK
        );
        if stopped && matches!(answer.event, Event::Settled { .. }) {
            answer.actions.push(Action::Prepare);
        }
    };
    assert_eq!(caught(fault), RESTART_AFTER_STOP);
}

#[test]
fn a_crash_loop_without_end_is_caught() {
    let make = |policy: Policy| -> Box<dyn Decides> {
        let lax = Policy { max_restarts: policy.max_restarts + 1, ..policy };
        Box::new(Machine::new(lax).0)
    };
    assert_eq!(first_broken(SEQUENCES, make).expect("not caught").1, TOO_MANY_RESTARTS);
}

#[test]
fn a_worker_that_is_not_told_its_new_credentials_is_caught() {
    let fault =
        |answer: &mut Answer<'_>| answer.actions.retain(|action| !matches!(action, Action::TellCredentials));
    assert_eq!(caught(fault), STALE);
}

#[test]
fn a_start_on_a_machine_that_is_taken_away_is_caught() {
    let fault = |answer: &mut Answer<'_>| {
        let interrupted = matches!(
            answer.before,
            State::Clearing(ended, Some(Request { cause: Cause::Interruption { .. }, .. }), _)
                if ended.exit != Exit::STUCK
        );
        if interrupted && matches!(answer.event, Event::Settled { .. }) {
            answer.actions.push(Action::Prepare);
        }
    };
    assert_eq!(caught(fault), STARTED_ON_A_DYING_MACHINE);
}

#[test]
fn a_ladder_that_outlasts_the_machine_is_caught() {
    struct Patient(Machine);
    impl Decides for Patient {
        fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
            let event = match event {
                Event::Interrupted { strength, cause, .. } => {
                    Event::Interrupted { strength, cause, within: None }
                }
                other => other,
            };
            self.0.handle(now, event)
        }
        fn deadline(&self) -> Option<Moment> {
            self.0.deadline()
        }
        fn state(&self) -> State {
            *self.0.state()
        }
    }
    let broken =
        first_broken(2000, |policy| -> Box<dyn Decides> { Box::new(Patient(Machine::new(policy).0)) });
    assert_eq!(broken.expect("not caught").1, LATE);
}

#[test]
fn a_deadline_that_spins_is_caught() {
    struct Spins(Machine);
    impl Decides for Spins {
        fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
            if event == Event::Deadline { Vec::new() } else { self.0.handle(now, event) }
        }
        fn deadline(&self) -> Option<Moment> {
            self.0.deadline()
        }
        fn state(&self) -> State {
            *self.0.state()
        }
    }
    let broken = first_broken(2000, |policy| -> Box<dyn Decides> { Box::new(Spins(Machine::new(policy).0)) });
    assert_eq!(broken.expect("not caught").1, DEADLINE_SPINS);
}
