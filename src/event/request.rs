//! Requests to end: their strength, their cause, and the one that concerns the runner itself.

use std::fmt;

use super::Outcome;

/// How strongly the worker is asked to end. A stronger request overrides a weaker one, never the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Strength {
    /// Finish the running tasks, claim no more, exit. Never a signal.
    Drain,
    /// Clean up and exit at once.
    Stop,
    /// SIGKILL to all of it.
    Kill,
}

/// A request that the runner itself ends, and its worker with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StopRequest {
    /// How strong it is.
    pub strength: Strength,
    /// Its origin: [`Cause::Operator`] or [`Cause::RunnerFault`].
    pub cause: Cause,
    /// Whether an operator's drain is part of it: no worker is to start after a reboot.
    pub hold: bool,
}

impl StopRequest {
    /// An operator's request.
    pub const fn operator(strength: Strength) -> Self {
        Self { strength, cause: Cause::Operator, hold: matches!(strength, Strength::Drain) }
    }

    /// A part of the runner has failed: the worker is drained.
    pub const RUNNER_FAULT: Self = Self { strength: Strength::Drain, cause: Cause::RunnerFault, hold: false };

    /// Joins two requests: the stronger strength, the cause that counts more.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            strength: self.strength.max(other.strength),
            cause: self.cause.max(other.cause),
            hold: self.hold || other.hold,
        }
    }

    /// The outcome of a runner that this request ends while it has no worker.
    pub fn outcome(self) -> Outcome {
        match self.cause {
            Cause::RunnerFault => Outcome::RunnerFailed,
            _ => Outcome::Stopped,
        }
    }
}

/// Why the worker is asked to end, in the order in which a cause counts when the exit is judged (the last counts most).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// It cannot be told of new credentials: it is started again with them.
    NewCredentials,
    /// A part of the runner itself has failed: whoever started it should start it afresh.
    RunnerFault,
    /// Its credentials run out and cannot be renewed.
    CredentialsExpiring,
    /// There is a new deployment, or worker-manager wants the worker gone.
    Redeploy,
    /// The cloud is likely to interrupt the machine before long.
    Rebalance,
    /// The cloud interrupts the machine.
    Interruption {
        /// The machine does not come back.
        ends: bool,
    },
    /// A person, or systemd, or the host going down.
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
