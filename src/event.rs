//! The vocabulary of supervision: what siblings send, the supervisor decides on, and observers show.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

mod request;

pub use request::{Cause, StopRequest, Strength};

/// How a worker's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It exited by itself, with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It has not ended, although it was killed: it is stuck in the kernel.
    Stuck,
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Stuck => f.write_str("no exit"),
            Self::Signal(number) => f.write_str(&signal_name(*number)),
        }
    }
}

/// The name of a signal: `SIGSTOP`.
pub fn signal_name(number: i32) -> Cow<'static, str> {
    let known = nix::sys::signal::Signal::try_from(number);
    known.map_or_else(|_| format!("signal {number}").into(), |signal| signal.as_str().into())
}

/// What an exit means to the worker's implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExitClass {
    /// It has done what it was started for.
    Done,
    /// Something told it to stop: its own interruption exit, or SIGTERM or SIGINT.
    Interrupted,
    /// It wants the host to reboot before it goes on.
    Reboot,
    /// It had nothing to do for too long.
    Idle,
    /// Its configuration is unusable: starting it again will not help.
    BadConfiguration,
    /// All else.
    Crash,
}

impl ExitClass {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Done, Self::Interrupted, Self::Reboot, Self::Idle, Self::BadConfiguration, Self::Crash];

    /// Its name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Interrupted => "interrupted",
            Self::Reboot => "reboot",
            Self::Idle => "idle",
            Self::BadConfiguration => "bad_configuration",
            Self::Crash => "crash",
        }
    }
}

/// An exit with its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exit {
    /// What the operating system says.
    pub status: ExitStatus,
    /// What the supervisor makes of it.
    pub class: ExitClass,
    /// What it means, in words for the log: `reboot required`.
    pub meaning: &'static str,
}

impl Exit {
    /// The end of a worker that cannot be killed.
    pub const STUCK: Self = Self {
        status: ExitStatus::Stuck,
        class: ExitClass::Crash,
        meaning: "still alive after SIGKILL, stuck in the kernel",
    };
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.meaning)
    }
}

/// What happened: what siblings and the worker tell the supervisor, and what it sees itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The worker's files are written; it can be started.
    Prepared,
    /// The worker's files cannot be written, or its program cannot be executed.
    StartFailed {
        /// The reason may pass by itself: a full disk, a full process table, a program that is being replaced.
        passing: bool,
    },
    /// The worker's process exists.
    Started {
        /// Its process id, and that of its process group.
        pid: u32,
    },
    /// The worker said hello.
    Hello {
        /// Whether it understands graceful-termination.
        graceful_termination: bool,
        /// Whether it understands new-credentials.
        new_credentials: bool,
    },
    /// There are newer credentials than before.
    Renewed {
        /// How often they have been renewed by now.
        renewals: u32,
    },
    /// Credentials that have been renewed come to their end: a worker that still has them must not go on.
    OldCredentialsEnd {
        /// How often they had been renewed when they were new.
        renewals: u32,
    },
    /// The worker's log tells that a task has started.
    TaskStarted,
    /// The worker's log tells that a task has finished.
    TaskFinished,
    /// The worker asks for its host to go away.
    ShutdownAsked,
    /// The worker will exit, and asks for a reboot of its host after that.
    RebootAsked,
    /// The runner itself is asked to end: everything that has been requested so far.
    Stop(StopRequest),
    /// A sibling task wants the worker to end.
    Asked {
        /// How strongly.
        strength: Strength,
        /// Why.
        cause: Cause,
    },
    /// The cloud gives notice.
    Interrupted {
        /// How strongly the worker is asked to end.
        strength: Strength,
        /// Rebalance or interruption.
        cause: Cause,
        /// How long the machine has, where that is known.
        within: Option<Duration>,
    },
    /// A signal has stopped the worker: SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU.
    WorkerStopped {
        /// The signal's number.
        signal: i32,
        /// It stopped because it had no terminal, and has been lent one.
        lent: bool,
    },
    /// SIGCONT has continued the worker.
    WorkerContinued,
    /// The worker's process is gone.
    Exited(Exit),
    /// After its exit: its output is read, and nothing that it left behind lives any more, or has been given up.
    Settled {
        /// Whether the worker can be started again without a boot between.
        in_place: bool,
    },
    /// The machine's deadline has come.
    Deadline,
}

/// How a supervised run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The worker had done its work, or had none.
    Done,
    /// An operator's stop or drain.
    Stopped,
    /// An operator's drain that ended in the worker's own reboot: nothing is to start after the boot.
    Held,
    /// The worker was removed from this machine at an earlier start: nothing was started.
    Removed,
    /// The worker could not be started.
    StartFailed,
    /// Restarting does not help, or is not allowed.
    GaveUp,
    /// The worker's credentials ran out.
    CredentialsExpired,
    /// The cloud interrupts the machine, or is about to.
    Interrupted {
        /// The machine does not come back.
        ends: bool,
    },
    /// The worker was let finish for a new deployment.
    Redeploy {
        /// Whether it can be started again without a boot between.
        in_place: bool,
    },
    /// A part of the runner failed, and the worker was let finish.
    RunnerFailed,
    /// The worker was asked to end, and not even SIGKILL has ended it.
    Stuck {
        /// Whether its host would leave worker-manager, had it ended.
        leaves: bool,
    },
    /// The worker needs a reboot that did not come, or that somebody else is to do.
    NeedsReboot,
    /// This machine must go, and it is still here.
    LeftBehind,
}

impl Outcome {
    /// Whether that is how it should end: nobody needs to look, and nothing should be started again.
    pub fn is_as_intended(self) -> bool {
        match self {
            Self::Done
            | Self::Stopped
            | Self::Held
            | Self::Removed
            | Self::Interrupted { .. }
            | Self::Redeploy { .. } => true,
            Self::StartFailed
            | Self::GaveUp
            | Self::CredentialsExpired
            | Self::RunnerFailed
            | Self::Stuck { .. }
            | Self::NeedsReboot
            | Self::LeftBehind => false,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "the worker is done",
            Self::Stopped => "stopped as asked",
            Self::Held => "drained as asked; holding after the reboot",
            Self::Removed => "the worker was removed from this machine",
            Self::StartFailed => "the worker could not be started",
            Self::GaveUp => "gave up on the worker",
            Self::CredentialsExpired => "the worker's credentials have run out",
            Self::Interrupted { ends: true } => "the machine is being taken away",
            Self::Interrupted { ends: false } => "the machine is being interrupted, and comes back",
            Self::Redeploy { .. } => "the worker has made way for a new deployment",
            Self::RunnerFailed => "a part of start-worker has failed",
            Self::Stuck { .. } => "the worker cannot be killed",
            Self::NeedsReboot => "the worker needs a reboot",
            Self::LeftBehind => "this machine must go, and it is still here",
        })
    }
}

/// What the runner is doing, in an operator's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Finding out who the worker is and what it is started with.
    Preparing,
    /// Drained before the reboot: nothing is started until somebody says so.
    Holding,
    /// Writing the worker's files and executing it.
    Starting,
    /// The worker lives, and nothing was asked of it.
    Running,
    /// The worker was asked to finish its tasks.
    Draining,
    /// The worker was asked to end at once.
    Stopping,
    /// The worker was killed.
    Killing,
    /// The worker has ended; what it left behind is being ended, and its end judged.
    Clearing,
    /// Waiting before the worker is started again.
    BackingOff,
    /// Waiting for the host to reboot.
    AwaitingReboot,
    /// The worker needs no more keeping.
    Ended,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Preparing,
        Self::Holding,
        Self::Starting,
        Self::Running,
        Self::Draining,
        Self::Stopping,
        Self::Killing,
        Self::Clearing,
        Self::BackingOff,
        Self::AwaitingReboot,
        Self::Ended,
    ];

    /// Its name, for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Holding => "holding",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Killing => "killing",
            Self::Clearing => "clearing",
            Self::BackingOff => "backing off",
            Self::AwaitingReboot => "awaiting reboot",
            Self::Ended => "ended",
        }
    }
}

/// Why the runner does what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The worker was asked to end.
    Asked(Cause),
    /// The worker ended like this.
    Exited(Exit),
    /// All is over.
    Over(Outcome),
    /// This machine leaves.
    Leaving(Step),
}

/// The steps of a machine that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// worker-manager is asked to remove the worker.
    Deregistering,
    /// worker-manager has confirmed that.
    Deregistered,
    /// The host is shut down, because worker-manager does not take it away.
    ShuttingDown,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(cause) => cause.fmt(f),
            Self::Exited(exit) => exit.fmt(f),
            Self::Over(outcome) => outcome.fmt(f),
            Self::Leaving(step) => step.fmt(f),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deregistering => "leaving: asking worker-manager to remove the worker",
            Self::Deregistered => "deregistered: worker-manager takes this machine away",
            Self::ShuttingDown => "leaving: shutting down the host",
        })
    }
}

/// The supervisor's state, as observers show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateSummary {
    /// What the runner is doing.
    pub phase: Phase,
    /// The process id of a worker that lives.
    pub worker_pid: Option<u32>,
    /// Why, where that is not plain.
    pub reason: Option<Reason>,
    /// The number of the signal that has stopped the worker; `None`: it runs, or there is none.
    pub stopped_by: Option<i32>,
}

impl From<Phase> for StateSummary {
    fn from(phase: Phase) -> Self {
        Self { phase, worker_pid: None, reason: None, stopped_by: None }
    }
}
