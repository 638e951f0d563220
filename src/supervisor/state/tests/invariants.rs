//! The invariants, checked from outside: from events, actions and the state alone.

use super::world::{Truth, World};
use super::*;

/// A broken invariant, by name.
pub(super) type Broken = &'static str;

pub(super) const TWO_WORKERS: Broken = "at most one worker lives";
pub(super) const CHILD_LOST: Broken = "no end while a worker lives or is being cleared";
pub(super) const WEAKER: Broken = "a stop is never weakened, and nothing is asked twice";
pub(super) const DRAIN_SIGNALS: Broken = "a drain sends no signal before its time is up";
pub(super) const NO_END: Broken = "every operator's stop ends in bounded time";
pub(super) const AFTER_END: Broken = "nothing happens after the end";
pub(super) const POWER_TWICE: Broken = "the host is shut down once, and only where that is allowed";
pub(super) const RESTART_AFTER_STOP: Broken = "no worker is started after an operator's request";
pub(super) const TOO_MANY_RESTARTS: Broken = "restarts after crashes are bounded";
pub(super) const DEADLINE_SPINS: Broken = "a deadline that was answered does not come again at once";
pub(super) const STARTED_ON_A_DYING_MACHINE: Broken = "no worker is started after an interruption notice";
pub(super) const LATE: Broken = "SIGKILL comes before the machine's end";
pub(super) const DOWN_AFTER_STOP: Broken = "the host is not taken down after an operator's request";
pub(super) const STALE: Broken = "a worker that can be told has the newest credentials, each told once";

pub(super) const ENDLESS: Broken = "SIGKILL is sent a bounded number of times";
pub(super) const GIVEN_UP_EARLY: Broken = "only a worker that SIGKILL has not ended in time is given up";
pub(super) const BESIDE_A_STUCK_WORKER: Broken = "no worker is started beside one that was given up";
pub(super) const CONTINUED_AGAIN: Broken = "a worker that stops again within a minute is left as it is";
pub(super) const STARTED_WHILE_HELD: Broken = "no start begins while an operator holds the host";
pub(super) const NOT_RESUMED: Broken = "a host that is resumed does not go on holding";
pub(super) const MARKED: Broken = "only `drain --once` sets the marker for the worker's reboot";

/// Twice by the ladder, because an operator's kill may come in between.
const KILLS: u32 = 4;

/// Checks one machine.
pub(super) struct Checker {
    policy: Policy,
    /// The strongest step against the current worker.
    rung: u8,
    started: Moment,
    strongest_asked: Option<Strength>,
    first_drain: Option<Moment>,
    operator: bool,
    hold: Hold,
    shutdowns: u32,
    crashes: u32,
    deadlines_now: (Moment, u32),
    ended: Option<State>,
    credentials: Generations,
    /// True if the current worker was asked to end because of new credentials, or asks for a reboot: its exit is not a
    /// crash.
    excused: bool,
    /// True if the last exit was counted as a crash.
    counted: bool,
    /// The number of notices from the cloud.
    notices: u32,
    /// The time at which the machine is taken away.
    latest: Option<Moment>,
    /// The time of the first SIGKILL to the current worker, and the number of them.
    killed: Option<Moment>,
    kills: u32,
    /// The number of workers that were given up.
    given_up: u32,
    /// The time at which the current worker was last continued.
    continued: Option<Moment>,
}

/// The reason why no worker may be started.
#[derive(Default)]
struct Hold {
    /// An operator holds the host.
    held: bool,
    /// No start is under way because of that.
    holding: bool,
    /// A `drain --once` was asked for.
    drained_once: bool,
}

/// How often the credentials had been renewed when …
#[derive(Default)]
struct Generations {
    /// … the last event arrived;
    now: u32,
    /// … the worker's files were written;
    written: u32,
    /// … the worker last received any.
    worker: u32,
}

impl Checker {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            rung: 0,
            started: Duration::ZERO,
            strongest_asked: None,
            first_drain: None,
            operator: false,
            hold: Hold::default(),
            shutdowns: 0,
            crashes: 0,
            deadlines_now: (Duration::ZERO, 0),
            ended: None,
            credentials: Generations::default(),
            excused: false,
            counted: false,
            notices: 0,
            latest: None,
            killed: None,
            kills: 0,
            given_up: 0,
            continued: None,
        }
    }

    /// Checks one event and its actions. `world` is the state before the event.
    pub(super) fn check(
        &mut self,
        world: &World,
        event: Event,
        actions: &[Action],
        (state, next): (&State, Option<Moment>),
    ) -> Result<(), Broken> {
        if let Some(ended) = &self.ended {
            return if actions.is_empty() && state == ended { Ok(()) } else { Err(AFTER_END) };
        }
        self.note_event(world.now, event);
        if let State::Stopping(_, Request { cause: Cause::Limit, .. }, _) = state {
            self.first_drain.get_or_insert(world.now);
        }
        let mut truth = world.truth;
        match event {
            Event::Started { .. } => truth = Truth::Alive,
            Event::Exited(_) => truth = Truth::Gone,
            Event::Settled { .. } | Event::StartFailed { .. } => truth = Truth::Nothing,
            _ => {}
        }
        self.check_continued(world.now, event, actions)?;
        for action in actions {
            self.check_action(world.now, truth, action)?;
            if *action == Action::GiveUp {
                truth = Truth::Gone;
            }
        }
        if let State::Stopping(_, request, _) = state {
            self.excused |= matches!(request.cause, Cause::NewCredentials | Cause::Limit);
        }
        if let State::Running(worker) | State::Stopping(worker, ..) = state {
            let can_be_told = matches!(worker.hello, Hello::Said { new_credentials: true, .. });
            if can_be_told && self.credentials.worker < self.credentials.now {
                return Err(STALE);
            }
        }
        self.hold.holding = *state == State::Holding;
        if self.hold.holding && !self.hold.held {
            return Err(NOT_RESUMED);
        }
        if let State::Ended(_) = state {
            let abandoned = actions.contains(&Action::AbandonSpawn);
            if matches!(truth, Truth::Alive | Truth::Gone) || (truth == Truth::Spawning && !abandoned) {
                return Err(CHILD_LOST);
            }
            self.ended = Some(*state);
        }
        self.check_in_time(world.now, state, next)?;
        Ok(())
    }

    /// Checks that, on a machine with a deadline, a live worker's next step is due before it, or SIGKILL has been sent.
    fn check_in_time(&self, now: Moment, state: &State, next: Option<Moment>) -> Result<(), Broken> {
        let (Some(latest), State::Stopping(_, _, ladder)) = (self.latest, state) else { return Ok(()) };
        let killed = matches!(ladder, Ladder::Killed { .. }) && next.is_some();
        let in_time = next.is_some_and(|next| next <= latest.max(now));
        if killed || in_time { Ok(()) } else { Err(LATE) }
    }

    /// Checks repeated continuations. A continuation for a lent terminal does not count.
    fn check_continued(&mut self, now: Moment, event: Event, actions: &[Action]) -> Result<(), Broken> {
        if !actions.contains(&Action::Continue) || matches!(event, Event::WorkerStopped { lent: true, .. }) {
            return Ok(());
        }
        let earlier = self.continued.replace(now).filter(|_| matches!(event, Event::WorkerStopped { .. }));
        if earlier.is_some_and(|earlier| now < earlier + secs(60)) { Err(CONTINUED_AGAIN) } else { Ok(()) }
    }

    /// Checks that, after a due deadline, the next one is eventually later.
    pub(super) fn check_deadline(&mut self, now: Moment, next: Option<Moment>) -> Result<(), Broken> {
        let (moment, count) = self.deadlines_now;
        let spins = next.is_some_and(|next| next <= now);
        self.deadlines_now = (now, if spins && moment == now { count + 1 } else { 0 });
        if self.deadlines_now.1 > 5 { Err(DEADLINE_SPINS) } else { Ok(()) }
    }

    fn note_event(&mut self, now: Moment, event: Event) {
        match event {
            Event::Started { .. } => {
                (self.rung, self.started) = (0, now);
                (self.killed, self.kills, self.continued) = (None, 0, None);
                self.credentials.worker = self.credentials.written;
                (self.excused, self.counted) = (false, false);
            }
            Event::Renewed { .. } => {
                self.credentials.now += 1;
                self.first_drain.get_or_insert(now);
            }
            Event::RebootAsked => {
                self.excused = true;
                // The worker's last messages may be read after its exit.
                self.crashes -= u32::from(std::mem::take(&mut self.counted));
            }
            Event::OldCredentialsEnd { .. } => {
                self.strongest_asked = self.strongest_asked.max(Some(Strength::Stop));
            }
            Event::Held => self.hold.held = true,
            Event::Released => self.hold.held = false,
            Event::Stop(StopRequest { strength, cause, .. }) | Event::Asked { strength, cause } => {
                self.hold.drained_once |= event == DRAIN_ONCE;
                self.operator |= cause == Cause::Operator;
                self.strongest_asked = self.strongest_asked.max(Some(strength));
                if strength == Strength::Drain {
                    self.first_drain.get_or_insert(now);
                }
            }
            Event::Interrupted { strength, within, .. } => {
                self.notices += 1;
                self.strongest_asked = self.strongest_asked.max(Some(strength));
                // A drain on a machine whose time is limited may end at any time.
                if strength == Strength::Stop || within.is_some() {
                    self.strongest_asked = self.strongest_asked.max(Some(Strength::Stop));
                } else {
                    self.first_drain.get_or_insert(now);
                }
                if let Some(within) = within {
                    let latest = now + within.max(secs(10));
                    self.latest = Some(self.latest.map_or(latest, |earlier| earlier.min(latest)));
                }
            }
            // Of a start that was given up for the hold nobody counts anything.
            Event::StartFailed { passing } => self.crashes += u32::from(passing && !self.hold.holding),
            Event::Exited(exit) => {
                if now.saturating_sub(self.started) > self.policy.restart_window {
                    self.crashes = 0;
                }
                if matches!(exit.class, ExitClass::Crash | ExitClass::Unfit) && !self.excused {
                    self.crashes += 1;
                    self.counted = true;
                }
            }
            _ => {}
        }
    }

    fn check_action(&mut self, now: Moment, truth: Truth, action: &Action) -> Result<(), Broken> {
        match action {
            Action::TellCredentials => {
                if self.credentials.worker == self.credentials.now {
                    return Err(STALE);
                }
                self.credentials.worker = self.credentials.now;
                Ok(())
            }
            Action::Prepare | Action::Spawn => {
                if self.hold.held {
                    return Err(STARTED_WHILE_HELD);
                }
                if *action == Action::Prepare {
                    self.credentials.written = self.credentials.now;
                }
                if matches!(truth, Truth::Alive | Truth::Gone) {
                    return Err(TWO_WORKERS);
                }
                if self.given_up > 0 {
                    return Err(BESIDE_A_STUCK_WORKER);
                }
                if self.operator {
                    return Err(RESTART_AFTER_STOP);
                }
                if self.notices > 0 {
                    return Err(STARTED_ON_A_DYING_MACHINE);
                }
                if self.crashes > self.policy.max_restarts {
                    return Err(TOO_MANY_RESTARTS);
                }
                Ok(())
            }
            Action::RebootHost | Action::PowerOffHost if self.operator => Err(DOWN_AFTER_STOP),
            Action::MarkHeld => {
                if self.hold.drained_once {
                    Ok(())
                } else {
                    Err(MARKED)
                }
            }
            Action::Tell { finish_tasks: true } => self.climb(1),
            Action::Tell { finish_tasks: false } => self.climb(2),
            Action::Terminate => self.signal(now, 3),
            Action::Kill => {
                self.killed.get_or_insert(now);
                self.kills += 1;
                if self.kills > KILLS { Err(ENDLESS) } else { self.signal(now, 4) }
            }
            Action::GiveUp => {
                self.given_up += 1;
                let had_time = self.killed.is_some_and(|killed| now >= killed + secs(1));
                if had_time && truth == Truth::Alive { Ok(()) } else { Err(GIVEN_UP_EARLY) }
            }
            Action::ShutDownHost => {
                self.shutdowns += 1;
                let allowed = self.policy.shutdown_host && self.shutdowns == 1;
                if allowed || self.rung == 0 && self.policy.shutdown_host { Ok(()) } else { Err(POWER_TWICE) }
            }
            _ => Ok(()),
        }
    }

    fn signal(&mut self, now: Moment, rung: u8) -> Result<(), Broken> {
        let only_drained = self.strongest_asked.is_none_or(|strength| strength == Strength::Drain);
        let patience = self.policy.drain_idle_timeout.min(self.policy.drain_timeout);
        let too_early = self.first_drain.is_none_or(|drain| now < drain + patience);
        if only_drained && too_early { Err(DRAIN_SIGNALS) } else { self.climb(rung) }
    }

    /// Only SIGKILL is ever repeated.
    fn climb(&mut self, rung: u8) -> Result<(), Broken> {
        if rung < self.rung || (rung == self.rung && rung != 4) {
            return Err(WEAKER);
        }
        self.rung = rung;
        Ok(())
    }
}
