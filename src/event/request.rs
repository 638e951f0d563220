//! Requests to end: their strength, their cause, and the request to the runner itself.

use std::fmt;

use super::Outcome;

/// The strength of a request to end. A stronger request overrides a weaker one, never the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Strength {
    /// Finish the running tasks, claim no more, and exit. Never sends a signal.
    Drain,
    /// Clean up and exit at once.
    Stop,
    /// Send SIGKILL to all of the worker's processes.
    Kill,
}

/// A request that the runner itself ends, together with its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StopRequest {
    pub strength: Strength,
    /// Its origin: [`Cause::Operator`] or [`Cause::RunnerFault`].
    pub cause: Cause,
    /// True if a `drain --once` is part of it: the host is held if the worker's own reboot follows.
    pub hold: bool,
}

impl StopRequest {
    /// An operator's request.
    pub const fn operator(strength: Strength) -> Self {
        Self { strength, cause: Cause::Operator, hold: false }
    }

    /// `start-worker drain --once`. (`start-worker drain` sets the drain marker itself, before it asks for the drain.)
    pub const DRAIN_ONCE: Self = Self { strength: Strength::Drain, cause: Cause::Operator, hold: true };

    /// A part of the runner has failed: the worker is drained.
    pub const RUNNER_FAULT: Self = Self { strength: Strength::Drain, cause: Cause::RunnerFault, hold: false };

    /// Combines two requests: the greater strength, and the cause with the higher precedence.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            strength: self.strength.max(other.strength),
            cause: self.cause.max(other.cause),
            hold: self.hold || other.hold,
        }
    }

    /// The outcome of a runner without a worker that this request ends.
    pub fn outcome(self) -> Outcome {
        match self.cause {
            Cause::RunnerFault => Outcome::RunnerFailed,
            _ => Outcome::Stopped,
        }
    }
}

/// The cause of a request to end the worker, in ascending order of precedence for the evaluation of its exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// It has done `supervision.maxTasks` tasks, or has run for `supervision.maxUptime`.
    Limit,
    /// The worker does not accept new credentials: it is restarted with them.
    NewCredentials,
    /// A part of the runner itself has failed: the runner's service manager should restart it.
    RunnerFault,
    /// The worker's credentials expire and cannot be renewed.
    CredentialsExpiring,
    /// There is a new deployment, or worker-manager wants the worker to end.
    Redeploy,
    /// The cloud will probably interrupt the machine soon.
    Rebalance,
    /// The cloud interrupts the machine.
    Interruption {
        /// True if the machine does not come back.
        ends: bool,
    },
    /// A person, systemd, or the shutdown of the host.
    Operator,
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drain => "drain",
            Self::Stop => "stop",
            Self::Kill => "kill",
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Limit => "limit of tasks or uptime",
            Self::NewCredentials => "new credentials, which the worker cannot be told of",
            Self::RunnerFault => "a part of start-worker has failed",
            Self::CredentialsExpiring => "credentials expire",
            Self::Redeploy => "new deployment",
            Self::Rebalance => "rebalance recommendation",
            Self::Interruption { .. } => "interruption",
            Self::Operator => "operator",
        })
    }
}
