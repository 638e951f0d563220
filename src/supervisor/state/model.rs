//! The machine's states with their data, and its actions.

use std::time::Duration;

use super::{Ladder, Moment, Note, Stops};
#[cfg(doc)]
use crate::event::Event;
use crate::event::{Cause, Exit, ExitClass, Outcome, RunFailure, StopRequest, Strength};

/// An action for the supervisor. Actions are performed at once and in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Write the worker's files; answer with [`Event::Prepared`] or [`Event::StartFailed`].
    Prepare,
    /// Execute the worker; answer with [`Event::Started`] or [`Event::StartFailed`].
    Spawn,
    /// Give up on the execution of the worker; kill the worker if it is executed nevertheless.
    AbandonSpawn,
    /// Send graceful-termination.
    Tell {
        /// The message's `finish-tasks`.
        finish_tasks: bool,
    },
    /// Send new-credentials with the latest ones.
    TellCredentials,
    /// Send SIGTERM to the worker's process group.
    Terminate,
    /// Send SIGCONT to the worker's process group.
    Continue,
    /// Take the terminal back from the worker's process group.
    TakeTerminal,
    /// Lend the terminal to the worker's process group, if the runner has it.
    LendTerminal,
    /// Send SIGKILL to the worker's process group and to all its descendants.
    Kill,
    /// Give up on a worker that cannot be killed: log where it is stuck, read the rest of its output, then answer with
    /// [`Event::Settled`]. Nothing waits for the worker any longer.
    GiveUp,
    /// Clean up after the worker's exit: terminate leftover processes, read the rest of its output, then answer with
    /// [`Event::Settled`].
    Clear {
        /// True to send SIGTERM to leftover processes.
        terminate: bool,
    },
    /// Send SIGKILL to leftover processes.
    KillLeftovers,
    /// Give up on leftover processes; [`Event::Settled`] must follow.
    AbandonLeftovers,
    /// Run `host.shutdownCommand`.
    ShutDownHost,
    /// Run `host.rebootCommand`.
    RebootHost,
    /// Run `host.shutdownCommand`, on a host that worker-manager does not take away.
    PowerOffHost,
    /// The worker is not started again, although the runner does not end yet: tell the log and worker-manager.
    Report(Outcome),
    /// Remove the cached run, so that the worker registers again after the boot.
    ForgetRun,
    /// Set the drain marker: no worker is started after the reboot.
    MarkHeld,
    /// Note that a run failed, for the next start's pause.
    CountFailure {
        /// Failed runs in a row, with this one.
        failed_runs: u32,
        /// The kind of this one.
        failure: RunFailure,
    },
    /// Note that the failed runs before do not count any more.
    ForgetFailures,
    /// Log a decision.
    Note(Note),
}

/// The data of a live worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    pub pid: u32,
    /// The time of its start.
    pub since: Moment,
    pub hello: Hello,
    /// Its tasks, once its log has reported one.
    pub tasks: Option<Tasks>,
    /// The number of tasks that it has finished.
    pub finished_tasks: u32,
    /// The moment at which it is drained for one of its limits.
    pub limit: Option<Moment>,
    /// True if it asked for the shutdown of its host, and that is being done: its exit has no further consequences.
    pub leaving: bool,
    /// True if it asked the runner to reboot the host after its exit.
    pub reboots: bool,
    /// Its credentials, by the number of renewals before them.
    pub credentials: u32,
    /// The signals that have stopped it.
    pub stops: Stops,
}

impl Worker {
    /// The next moment at which something is due while nobody has asked it to end.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let hello = match self.hello {
            Hello::Awaited(until) => Some(until),
            Hello::Absent | Hello::Said { .. } => None,
        };
        hello.into_iter().chain(self.limit).min()
    }
}

/// The worker's hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// Not received yet; awaited until this time.
    Awaited(Moment),
    /// Not received in time: the worker is treated as one without the protocol.
    Absent,
    /// Received.
    Said {
        /// True if the worker supports graceful-termination.
        graceful_termination: bool,
        /// True if the worker supports new-credentials.
        new_credentials: bool,
    },
}

/// The tasks that a worker's log has reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tasks {
    /// The number of running tasks.
    pub running: u32,
    /// The time of the last change.
    pub changed: Moment,
}

/// A request that the worker ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The strength so far.
    pub strength: Strength,
    /// The cause with the highest precedence.
    pub cause: Cause,
    /// `drain --once` is part of it: after the worker's own reboot no worker is to start.
    pub hold: bool,
    /// The deadlines, if the machine's time is limited.
    pub limit: Option<Limit>,
}

/// The deadlines for the rungs of the stop ladder, on a machine that is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The latest time for SIGTERM.
    pub terminate: Moment,
    /// The latest time for SIGKILL.
    pub kill: Moment,
    /// The latest time to give up on a worker that SIGKILL has not ended.
    pub give_up: Moment,
}

/// The part of a machine's remaining time that is reserved for its removal after the worker's end.
const AFTER_THE_WORKER: Duration = Duration::from_secs(5);

/// A nearer or past deadline is more likely to come from a wrong clock than to be true.
const SHORTEST: Duration = Duration::from_secs(10);

impl Limit {
    /// The deadlines of a machine with this time left.
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

    /// Combines this request with a later one: the greater strength, and the cause with the higher precedence. A host
    /// that a cloud takes away stops its services, too, so a signal after the notice does not change the cause.
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

/// A worker that has exited, until its exit has been evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub exit: Exit,
    /// The duration of its run.
    pub ran: Duration,
    /// True if it had asked for the shutdown of its host.
    pub leaving: bool,
    /// True if it had asked the runner to reboot the host, whatever its exit is.
    pub reboots: bool,
}

impl Ended {
    /// Returns true if the host should reboot before the worker continues.
    pub(super) fn wants_reboot(&self) -> bool {
        self.reboots || self.exit.class == ExitClass::Reboot
    }
}

/// The progress of terminating leftover processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clearing {
    /// Sent SIGTERM, or left alone, until this time.
    Asked(Moment),
    /// Killed; awaited until this time.
    Killed(Moment),
    /// Given up.
    Abandoned,
}

/// The machine's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The worker's files are being written.
    Preparing,
    /// The worker's program is being executed.
    Spawning(Option<Request>),
    /// The worker is alive, and has not been asked to end.
    Running(Worker),
    /// The worker is alive, and has been asked to end.
    Stopping(Worker, Request, Ladder),
    /// The worker has exited; its leftover processes are being terminated and its output is being read.
    Clearing(Ended, Option<Request>, Clearing),
    /// The worker was interrupted without a known request: waits for the signal that explains it.
    Lingering {
        ended: Ended,
        /// True if the worker can be restarted in place.
        in_place: bool,
        until: Moment,
    },
    /// Waiting before the next start.
    BackingOff {
        /// How long.
        until: Moment,
    },
    /// An operator holds this host: the next start waits for `start-worker resume`.
    Holding,
    /// The host is said to reboot.
    AwaitingReboot {
        /// True if the worker can be restarted in place, if the reboot does not happen.
        in_place: bool,
        until: Moment,
        /// True if the worker's credentials have expired meanwhile.
        expired: bool,
        /// The host is to be shut down instead.
        powers_off: bool,
    },
    /// The supervision has ended.
    Ended(Outcome),
}
