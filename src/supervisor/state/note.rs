//! What a decision tells the log, as a value; `supervisor::decision_log` puts it into words.

use std::time::Duration;

use super::{Ladder, Request};
use crate::event::Exit;

/// One line for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// The worker has been silent for too long: treated as one without the protocol.
    NoHello {
        /// How long.
        waited: Duration,
    },
    /// The worker is asked to end, or will be.
    Ending {
        /// Its process id.
        pid: u32,
        /// By whom, how strongly.
        request: Request,
        /// What was done about it.
        ladder: Ladder,
    },
    /// A drain becomes a stop: the worker says that no task runs, and yet does not end.
    DrainIdle {
        /// How long no task ran.
        idle: Duration,
    },
    /// A drain becomes a stop: the machine is taken away before long.
    DeadlineNear,
    /// A drain becomes a stop: it took too long.
    DrainTooLong {
        /// How long.
        waited: Duration,
    },
    /// A stop becomes SIGTERM.
    StopTooLong {
        /// How long the worker had.
        waited: Duration,
    },
    /// SIGTERM becomes SIGKILL.
    TermTooLong {
        /// How long the worker had.
        waited: Duration,
    },
    /// Not even SIGKILL has ended it.
    KillTooLong {
        /// Its process id.
        pid: u32,
    },
    /// A signal has stopped the worker: it is continued.
    WorkerStopped {
        /// Its process id.
        pid: u32,
        /// The signal's number.
        signal: i32,
    },
    /// A signal has stopped the worker again, soon after it was continued: it is left as it is.
    WorkerLeftStopped {
        /// Its process id.
        pid: u32,
        /// The signal's number.
        signal: i32,
    },
    /// The worker's process is gone.
    Exited {
        /// How.
        exit: Exit,
        /// How long it ran.
        ran: Duration,
        /// It had been asked to end.
        expected: bool,
    },
    /// What the worker left behind did not end when asked.
    LeftoversKilled {
        /// How long it had.
        waited: Duration,
    },
    /// The worker asks for its host to go away.
    ShutdownAsked {
        /// Whether that is done.
        granted: bool,
    },
    /// Starting it again will not help.
    BadConfiguration,
    /// It crashed too often.
    TooManyCrashes {
        /// How often.
        crashes: u32,
        /// How many restarts are allowed.
        allowed: u32,
        /// A run longer than this would have made them forgotten.
        window: Duration,
    },
    /// It crashed, and cannot be started again without a boot between.
    CannotRestartInPlace,
    /// It is started again.
    Restarting {
        /// After so long.
        wait: Duration,
        /// Crashes so far; 0: it had not crashed, it was done.
        crashes: u32,
        /// How many restarts after crashes are allowed.
        allowed: u32,
    },
    /// It is started again with new credentials, which it could not be told of.
    RestartWithCredentials,
    /// It wants a reboot, and is started again in its stead.
    RestartInsteadOfReboot,
    /// The host is said to reboot.
    AwaitingReboot {
        /// How long that may take.
        timeout: Duration,
    },
    /// It did not.
    RebootDidNotCome {
        /// How long it was waited for.
        waited: Duration,
        /// The worker is started again in its stead.
        in_place: bool,
    },
}
