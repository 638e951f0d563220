//! What the machine knows and says: its states with their data, and its actions.

use std::time::Duration;

use super::{Ladder, Moment, Note, Stops};
#[cfg(doc)]
use crate::event::Event;
use crate::event::{Cause, Exit, ExitClass, Outcome, StopRequest, Strength};

/// What the supervisor is to do. Each is performed at once, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Write the worker's files; answer with [`Event::Prepared`] or [`Event::StartFailed`].
    Prepare,
    /// Execute the worker; answer with [`Event::Started`] or [`Event::StartFailed`].
    Spawn,
    /// Do not wait any longer for the worker to be executed; end it should it be.
    AbandonSpawn,
    /// Send graceful-termination.
    Tell {
        /// Its `finish-tasks`.
        finish_tasks: bool,
    },
    /// Send new-credentials, the newest.
    TellCredentials,
    /// SIGTERM to the worker's process group.
    Terminate,
    /// SIGCONT to the worker's process group.
    Continue,
    /// Take the terminal back from the worker's process group.
    TakeTerminal,
    /// Lend the terminal to the worker's process group, where the runner has it.
    LendTerminal,
    /// SIGKILL to the worker's process group and to all its descendants.
    Kill,
    /// The worker cannot be killed: say where it is stuck, read the rest of its output, then answer with
    /// [`Event::Settled`]. Nothing waits for the worker any longer.
    GiveUp,
    /// The worker is gone: end what it left behind, read the rest of its output, then answer with
    /// [`Event::Settled`].
    Clear {
        /// Whether what it left gets SIGTERM.
        terminate: bool,
    },
    /// SIGKILL to what the worker left behind.
    KillLeftovers,
    /// Wait no longer for what the worker left behind; [`Event::Settled`] must follow.
    AbandonLeftovers,
    /// Run `host.shutdownCommand`.
    ShutDownHost,
    /// Run `host.rebootCommand`.
    RebootHost,
    /// Remove the cached run: what comes after the boot registers anew.
    ForgetRun,
    /// Leave the mark that keeps a worker from being started after the reboot.
    MarkHeld,
    /// Tell the log.
    Note(Note),
}

/// What is known of a worker that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// Its process id.
    pub pid: u32,
    /// When it was started.
    pub since: Moment,
    /// What it said of itself.
    pub hello: Hello,
    /// Its tasks, once its log has told of one.
    pub tasks: Option<Tasks>,
    /// It asked for its host to go away, and that is being done: its exit adds nothing.
    pub leaving: bool,
    /// It asked for a reboot of its host after its exit, by the runner.
    pub reboots: bool,
    /// Which credentials it has: how often they had been renewed.
    pub credentials: u32,
    /// The signals that have stopped it.
    pub stops: Stops,
}

/// What a worker said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// Nothing yet; it has until then.
    Awaited(Moment),
    /// Nothing in time: treated as one without the protocol.
    Absent,
    /// It said hello.
    Said {
        /// Whether it understands graceful-termination.
        graceful_termination: bool,
        /// Whether it understands new-credentials.
        new_credentials: bool,
    },
}

/// The tasks that a worker's log told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tasks {
    /// How many run now.
    pub running: u32,
    /// When that last changed.
    pub changed: Moment,
}

/// Somebody wants the worker to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// How strongly, by now.
    pub strength: Strength,
    /// Why; the cause that counts most.
    pub cause: Cause,
    /// An operator asked for a drain at some point: after the worker's own reboot nothing is to start.
    pub hold: bool,
    /// Until when it must be over, where the machine's time is limited.
    pub limit: Option<Limit>,
}

/// The last moments for the rungs of the stop ladder, on a machine that is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// SIGTERM is sent then at the latest.
    pub terminate: Moment,
    /// SIGKILL is sent then at the latest.
    pub kill: Moment,
    /// A worker that SIGKILL has not ended is given up then at the latest.
    pub give_up: Moment,
}

/// What is kept of a machine's last time for what follows the worker's end: removing it.
const AFTER_THE_WORKER: Duration = Duration::from_secs(5);

/// A deadline nearer than this, or past, is more likely to be a wrong clock than the truth.
const SHORTEST: Duration = Duration::from_secs(10);

impl Limit {
    /// For a machine that has this time left.
    pub(super) fn within(now: Moment, left: Duration, kill_timeout: Duration) -> Self {
        let left = left.max(SHORTEST);
        let after = AFTER_THE_WORKER.min(left / 3);
        let worker = left.saturating_sub(after);
        let kill = now + worker;
        Self { terminate: kill.saturating_sub(kill_timeout.min(worker / 2)), kill, give_up: kill + after / 2 }
    }

    fn earlier(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(if one.kill <= other.kill { one } else { other }),
            (one, other) => one.or(other),
        }
    }
}

impl Request {
    pub(super) fn new(strength: Strength, cause: Cause) -> Self {
        Self { strength, cause, hold: false, limit: None }
    }

    /// This request and a later one as one: the stronger strength, the cause that counts more. A host that a cloud takes
    /// away stops its services, too: a signal that follows the notice does not change what the notice means.
    pub(super) fn join(self, other: Self) -> Self {
        let taken_away = self.cause == Cause::Interruption { ends: true };
        Self {
            strength: self.strength.max(other.strength),
            cause: if taken_away { self.cause } else { self.cause.max(other.cause) },
            hold: self.hold || other.hold,
            limit: Limit::earlier(self.limit, other.limit),
        }
    }
}

impl From<StopRequest> for Request {
    fn from(StopRequest { strength, cause, hold }: StopRequest) -> Self {
        Self { strength, cause, hold, limit: None }
    }
}

/// A worker that has ended, while its end is being judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub exit: Exit,
    /// How long it ran.
    pub ran: Duration,
    /// It had asked for its host to go away.
    pub leaving: bool,
    /// It had asked for a reboot of its host, by the runner, whatever its exit.
    pub reboots: bool,
}

impl Ended {
    /// Whether the host is to reboot before the worker goes on.
    pub(super) fn wants_reboot(&self) -> bool {
        self.reboots || self.exit.class == ExitClass::Reboot
    }
}

/// How far the end of a worker's leftovers has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clearing {
    /// Asked to end, or left alone; they have until then.
    Asked(Moment),
    /// Killed; they have until then.
    Killed(Moment),
    /// Not waited for any more.
    Abandoned,
}

/// Where the supervisor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The worker's files are being written.
    Preparing,
    /// The worker's program is being executed.
    Spawning(Option<Request>),
    /// The worker lives, and nothing was asked of it.
    Running(Worker),
    /// The worker lives, and was asked to end.
    Stopping(Worker, Request, Ladder),
    /// The worker is gone; its leftovers are being ended and its output read.
    Clearing(Ended, Option<Request>, Clearing),
    /// The worker was interrupted by nobody we know of: waiting for the signal that explains it.
    Lingering {
        /// The worker.
        ended: Ended,
        /// Whether it can be started again in place.
        in_place: bool,
        /// How long.
        until: Moment,
    },
    /// Waiting before the next start.
    BackingOff {
        /// How long.
        until: Moment,
    },
    /// The host is said to reboot.
    AwaitingReboot {
        /// Whether the worker can be started again in place, should the reboot not come.
        in_place: bool,
        /// How long.
        until: Moment,
        /// Its credentials have run out meanwhile.
        expired: bool,
    },
    /// The end.
    Ended(Outcome),
}
