//! A world for the machine: it knows the true state of the worker, and creates events that are possible in it.

use super::*;

/// A decider: the machine, or one with a planted fault.
pub(super) trait Decides {
    fn handle(&mut self, now: Moment, event: Event) -> Vec<Action>;
    fn deadline(&self) -> Option<Moment>;
    fn state(&self) -> State;
}

impl Decides for Machine {
    fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        Machine::handle(self, now, event)
    }

    fn deadline(&self) -> Option<Moment> {
        Machine::deadline(self)
    }

    fn state(&self) -> State {
        *Machine::state(self)
    }
}

/// A small random number generator (xorshift64*): fast, and the same everywhere.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    pub(super) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }

    pub(super) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// The true state of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Truth {
    Nothing,
    Preparing,
    Spawning,
    Alive,
    /// Its leftover processes are being terminated, or it was given up.
    Gone,
}

/// The world around one machine.
pub(super) struct World {
    pub(super) truth: Truth,
    pub(super) now: Moment,
    calm: bool,
    renewals: u32,
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

impl World {
    /// `calm`: there are no requests that the worker ends.
    pub(super) fn new(calm: bool) -> Self {
        Self { truth: Truth::Preparing, now: Duration::ZERO, calm, renewals: 0 }
    }

    /// An event that is possible now. Time may pass before it.
    pub(super) fn next(&mut self, random: &mut Random, deadline: Option<Moment>) -> Event {
        if random.chance(3) {
            self.now += random.one_of(&[1, 10, 900, 1100, 5_000, 31_000, 400_000]).milliseconds();
        }
        if let Some(deadline) = deadline.filter(|deadline| self.now >= *deadline || random.chance(4)) {
            self.now = self.now.max(deadline);
            return Event::Deadline;
        }
        if random.chance(2)
            && let Some(event) = self.progress(random)
        {
            return event;
        }
        match random.below(20) {
            0..=3 if self.calm => Event::Deadline,
            0 if random.chance(3) => Event::Stop(StopRequest::operator(Strength::Kill)),
            0 => Event::Stop(StopRequest::operator(Strength::Stop)),
            1 if random.chance(2) => DRAIN_ONCE,
            1 => DRAIN,
            2 => Event::Asked { strength: Strength::Drain, cause: Cause::CredentialsExpiring },
            3 if random.chance(4) => Event::Stop(StopRequest::RUNNER_FAULT),
            3 => Event::Asked { strength: Strength::Stop, cause: Cause::CredentialsExpiring },
            4..=6 => {
                Event::Hello { graceful_termination: random.chance(2), new_credentials: random.chance(2) }
            }
            7..=8 => Event::TaskStarted,
            9..=10 => Event::TaskFinished,
            11 => Event::ShutdownAsked,
            12 if random.chance(3) => Event::RebootAsked,
            12 if random.chance(2) => Event::Held,
            12 => Event::Released,
            13 => self.renewed(),
            14 if random.chance(3) => Event::OldCredentialsEnd { renewals: self.renewals.saturating_sub(1) },
            15 if random.chance(2) && !self.calm => Self::notice(random),
            16 if random.chance(2) && !self.calm => {
                Event::Asked { strength: Strength::Drain, cause: Cause::Redeploy }
            }
            17 => Event::WorkerStopped { signal: libc::SIGSTOP, lent: random.chance(4) },
            18 if random.chance(3) => Event::Resumed,
            18 => Event::WorkerContinued,
            _ => self.progress(random).unwrap_or(Event::TaskFinished),
        }
    }

    fn renewed(&mut self) -> Event {
        self.renewals += 1;
        Event::Renewed { renewals: self.renewals }
    }

    fn notice(random: &mut Random) -> Event {
        let within = random.one_of(&[None, Some(0), Some(5), Some(30), Some(120), Some(4000)]).map(secs);
        if random.chance(4) {
            return Event::Interrupted { strength: Strength::Drain, cause: Cause::Rebalance, within: None };
        }
        let strength = random.one_of(&[Strength::Drain, Strength::Stop]);
        Event::Interrupted { strength, cause: Cause::Interruption { ends: random.chance(2) }, within }
    }

    /// Completes the step in progress.
    fn progress(&mut self, random: &mut Random) -> Option<Event> {
        Some(match self.truth {
            Truth::Nothing => return None,
            Truth::Preparing | Truth::Spawning if random.chance(50) => {
                Event::StartFailed { passing: random.chance(2) }
            }
            Truth::Preparing => Event::Prepared,
            Truth::Spawning => Event::Started { pid: 7 },
            Truth::Alive if random.chance(2) => return None,
            Truth::Alive => Event::Exited(exit(random.one_of(&CLASSES))),
            Truth::Gone => Event::Settled { in_place: random.chance(2) },
        })
    }

    /// Updates the true state after an event and its actions.
    pub(super) fn advance(&mut self, event: Event, actions: &[Action]) {
        self.truth = match event {
            Event::StartFailed { .. } | Event::Settled { .. } => Truth::Nothing,
            Event::Started { .. } => Truth::Alive,
            Event::Exited(_) => Truth::Gone,
            _ => self.truth,
        };
        for action in actions {
            match action {
                Action::Prepare => self.truth = Truth::Preparing,
                Action::Spawn => self.truth = Truth::Spawning,
                Action::GiveUp => self.truth = Truth::Gone,
                Action::AbandonSpawn => self.truth = Truth::Nothing,
                _ => {}
            }
        }
    }
}

trait Milliseconds {
    fn milliseconds(self) -> Duration;
}

impl Milliseconds for u64 {
    fn milliseconds(self) -> Duration {
        Duration::from_millis(self)
    }
}
