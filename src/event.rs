//! The vocabulary of supervision: events from siblings, decisions of the supervisor, and states for observers.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

mod request;

pub use request::{Cause, StopRequest, Strength};

/// The end of a worker's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// A signal terminated it.
    Signal(i32),
    /// It did not exit after SIGKILL, because it is stuck in the kernel.
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

/// The class of an exit, according to the worker's implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExitClass {
    /// The worker has completed its work.
    Done,
    /// The worker was told to stop: its own interruption exit, SIGTERM or SIGINT.
    Interrupted,
    /// The worker needs a reboot of the host to continue.
    Reboot,
    /// The worker was idle for too long.
    Idle,
    /// The worker's configuration is unusable: a restart will not help.
    BadConfiguration,
    /// A bug of the worker, or a host that is not fit for tasks.
    Unfit,
    /// Any other exit.
    Crash,
}

impl ExitClass {
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::Interrupted,
        Self::Reboot,
        Self::Idle,
        Self::BadConfiguration,
        Self::Unfit,
        Self::Crash,
    ];

    /// The name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Interrupted => "interrupted",
            Self::Reboot => "reboot",
            Self::Idle => "idle",
            Self::BadConfiguration => "bad_configuration",
            Self::Unfit => "unfit",
            Self::Crash => "crash",
        }
    }
}

/// The kind of a failed run, which counts for the pause before the next start (`supervision.failureBackoff`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunFailure {
    /// The worker crashed, and was not restarted.
    Crash,
    /// The worker found itself, or its host, unfit for tasks.
    Unfit,
    /// The worker cannot work with its configuration.
    BadConfiguration,
    /// The worker could not be started.
    Start,
}

impl RunFailure {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Crash, Self::Unfit, Self::BadConfiguration, Self::Start];

    /// Its name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Unfit => "unfit",
            Self::BadConfiguration => "bad_configuration",
            Self::Start => "start",
        }
    }
}

impl fmt::Display for RunFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crash => "the worker crashed",
            Self::Unfit => "the worker found this host unfit for tasks",
            Self::BadConfiguration => "the worker could not use its configuration",
            Self::Start => "the worker could not be started",
        })
    }
}

/// An exit and its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exit {
    /// The status from the operating system.
    pub status: ExitStatus,
    /// The class for the supervisor's decisions.
    pub class: ExitClass,
    /// The meaning as text for the log: `reboot required`.
    pub meaning: &'static str,
}

impl Exit {
    /// The exit of a worker that cannot be killed.
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

/// An event from a sibling, from the worker or from the supervisor itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The worker's files are written, and the worker can be started.
    Prepared,
    /// The worker's files cannot be written, or its program cannot be executed.
    StartFailed {
        /// True if the cause may be temporary: a full disk, a full process table, a program that is being replaced.
        passing: bool,
    },
    /// The worker's process exists.
    Started {
        /// The id of the process, which is also its process group's.
        pid: u32,
    },
    /// The worker said hello.
    Hello {
        /// True if the worker supports graceful-termination.
        graceful_termination: bool,
        /// True if the worker supports new-credentials.
        new_credentials: bool,
    },
    /// New credentials are available.
    Renewed {
        /// The number of renewals so far.
        renewals: u32,
    },
    /// Replaced credentials expire: a worker that still uses them must not continue.
    OldCredentialsEnd {
        /// The number of renewals at the time at which these credentials were new.
        renewals: u32,
    },
    /// The worker's log shows the start of a task.
    TaskStarted,
    /// The worker's log shows the end of a task.
    TaskFinished,
    /// The worker asks for the shutdown of its host.
    ShutdownAsked,
    /// The worker will exit, and asks for a reboot of its host afterwards.
    RebootAsked,
    /// The runner itself is asked to end. Contains the union of all requests so far.
    Stop(StopRequest),
    /// A sibling task asks the worker to end.
    Asked { strength: Strength, cause: Cause },
    /// The cloud has given notice of an interruption.
    Interrupted {
        strength: Strength,
        /// [`Cause::Rebalance`] or [`Cause::Interruption`].
        cause: Cause,
        /// The remaining time of the machine, if it is known.
        within: Option<Duration>,
    },
    /// A signal has stopped the worker: SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU.
    WorkerStopped {
        signal: i32,
        /// True if the worker was stopped because it had no terminal, and has been lent one.
        lent: bool,
    },
    /// SIGCONT has continued the worker.
    WorkerContinued,
    /// The worker's process has exited.
    Exited(Exit),
    /// After the exit, the worker's output is read, and its leftover processes are terminated or given up.
    Settled {
        /// True if the worker can be restarted without a reboot.
        in_place: bool,
    },
    /// An operator does not want to wait for the next start.
    Resumed,
    /// An operator holds this host: no other worker is started.
    Held,
    /// The hold is over.
    Released,
    /// The machine's deadline has passed.
    Deadline,
}

/// The outcome of a supervised run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The worker has completed its work, or had none.
    Done,
    /// An operator stopped or drained the worker.
    Stopped,
    /// A `drain --once` that ended in the worker's own reboot: nothing is to start after the boot.
    Held,
    /// The worker was removed from this machine at an earlier start, so none was started.
    Removed,
    StartFailed,
    /// Restarting does not help, or is not allowed.
    GaveUp,
    /// The worker found its host unfit for tasks, and the host is to hold.
    Unfit,
    CredentialsExpired,
    /// The cloud interrupts the machine, or will do so soon.
    Interrupted {
        /// True if the machine does not come back.
        ends: bool,
    },
    /// The worker finished its tasks because of a new deployment.
    Redeploy {
        /// True if the worker can be restarted without a reboot.
        in_place: bool,
    },
    /// A part of the runner failed, and the worker finished its tasks.
    RunnerFailed,
    /// The worker was asked to end, and did not exit even after SIGKILL.
    Stuck {
        /// True if the machine would have left worker-manager after the worker's exit.
        leaves: bool,
    },
    /// The worker needs a reboot that did not happen, or that others will perform.
    NeedsReboot,
    /// This machine should have been removed, and is still running.
    LeftBehind,
}

impl Outcome {
    /// Returns true if the run ended as intended: nobody needs to investigate, and nothing should be restarted.
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
            | Self::Unfit
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
            Self::Unfit => "the worker found this host unfit for tasks",
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

/// The runner's current activity, in an operator's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Identifying the worker and preparing its start.
    Preparing,
    /// An operator holds this host: no worker is started until `start-worker resume`.
    Holding,
    /// Writing the worker's files and executing its program.
    Starting,
    /// The worker runs, and has not been asked to end.
    Running,
    /// The worker has been asked to finish its tasks.
    Draining,
    /// The worker has been asked to end at once.
    Stopping,
    /// The worker has been killed.
    Killing,
    /// The worker has exited; its leftover processes are being terminated and its exit evaluated.
    Clearing,
    /// Waiting before the worker is restarted.
    BackingOff,
    /// Waiting for the host to reboot.
    AwaitingReboot,
    /// The supervision of the worker has ended.
    Ended,
}

impl Phase {
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

    /// The name, for people and programs.
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

/// The reason for the current phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The worker was asked to end.
    Asked(Cause),
    /// The worker's last exit.
    Exited(Exit),
    /// The final outcome.
    Over(Outcome),
    /// This machine is leaving worker-manager.
    Leaving(Step),
    /// The pause that follows failed runs is not over.
    FailedRuns {
        /// The number of failed runs in a row.
        count: u32,
        /// The last of them.
        last: RunFailure,
        /// The end of the pause.
        until: Timestamp,
    },
}

/// The steps by which a machine leaves worker-manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Asking worker-manager to remove the worker.
    Deregistering,
    /// worker-manager has confirmed the removal.
    Deregistered,
    /// Shutting down the host, because worker-manager does not remove it.
    ShuttingDown,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(cause) => cause.fmt(f),
            Self::Exited(exit) => exit.fmt(f),
            Self::Over(outcome) => outcome.fmt(f),
            Self::Leaving(step) => step.fmt(f),
            Self::FailedRuns { count, last, until } => {
                let runs = if *count == 1 { "run" } else { "runs" };
                write!(
                    f,
                    "{count} failed {runs} in a row, the last because {last}; the next start is at {until:.0}"
                )
            }
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

/// The supervisor's state, as shown to observers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateSummary {
    pub phase: Phase,
    /// The process id of a live worker.
    pub worker_pid: Option<u32>,
    /// The reason, if it is not obvious.
    pub reason: Option<Reason>,
    /// The number of the signal that has stopped the worker; `None`: it runs, or there is no worker.
    pub stopped_by: Option<i32>,
}

impl From<Phase> for StateSummary {
    fn from(phase: Phase) -> Self {
        Self { phase, worker_pid: None, reason: None, stopped_by: None }
    }
}
