//! Log messages of decisions, as values; `supervisor::decision_log` formats them.

use std::time::Duration;

use super::{Ladder, Request};
use crate::event::Exit;

/// One log line for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// The worker has sent no hello in time, and is treated as one without the protocol.
    NoHello { waited: Duration },
    /// The worker is being asked to end, or will be.
    Ending {
        pid: u32,
        request: Request,
        /// The step that was taken.
        ladder: Ladder,
    },
    /// A drain becomes a stop, because the worker's log reports no running task, and the worker does not exit.
    DrainIdle {
        /// The time without a task.
        idle: Duration,
    },
    /// A drain becomes a stop, because the machine will be taken away soon.
    DeadlineNear,
    /// A drain becomes a stop, because it took too long.
    DrainTooLong { waited: Duration },
    /// A stop becomes SIGTERM.
    StopTooLong {
        /// The time that the worker had.
        waited: Duration,
    },
    /// SIGTERM becomes SIGKILL.
    TermTooLong {
        /// The time that the worker had.
        waited: Duration,
    },
    /// The worker has not exited after SIGKILL.
    KillTooLong { pid: u32 },
    /// A signal has stopped the worker, and the runner continues it.
    WorkerStopped { pid: u32, signal: i32 },
    /// A signal has stopped the worker again, soon after it was continued, and the runner does not continue it.
    WorkerLeftStopped { pid: u32, signal: i32 },
    /// The worker's process has exited.
    Exited {
        exit: Exit,
        /// The duration of the run.
        ran: Duration,
        /// True if the worker had been asked to end.
        expected: bool,
    },
    /// Leftover processes did not exit after SIGTERM.
    LeftoversKilled {
        /// The time that they had.
        waited: Duration,
    },
    /// The worker asks for the shutdown of its host.
    ShutdownAsked { granted: bool },
    /// The worker's configuration is unusable, so a restart will not help.
    BadConfiguration,
    /// The host is taken down after the worker's end.
    AfterRun {
        /// It is shut down; else it is rebooted.
        powers_off: bool,
    },
    /// It is unfit for tasks: the next start waits.
    FailurePause {
        /// How long.
        wait: Duration,
        /// Failed runs in a row.
        failed_runs: u32,
    },
    /// The worker crashed too often.
    TooManyCrashes {
        /// The number of crashes.
        crashes: u32,
        /// The number of allowed restarts.
        allowed: u32,
        /// A longer run would have reset the count.
        window: Duration,
    },
    /// The worker crashed, and cannot be restarted without a reboot.
    CannotRestartInPlace,
    /// The worker will be restarted.
    Restarting {
        /// The delay.
        wait: Duration,
        /// The number of crashes so far; 0: the worker had not crashed, but completed its work.
        crashes: u32,
        /// The number of allowed restarts after crashes.
        allowed: u32,
    },
    /// The worker is restarted with new credentials, which it does not accept by message.
    RestartWithCredentials,
    /// The worker asks for a reboot, and is restarted instead.
    RestartInsteadOfReboot,
    /// The host is expected to reboot.
    AwaitingReboot {
        /// The time limit for the reboot.
        timeout: Duration,
    },
    /// The host did not reboot.
    RebootDidNotCome {
        /// The time waited.
        waited: Duration,
        /// True if the worker is restarted instead.
        in_place: bool,
        /// It was a shutdown.
        powers_off: bool,
    },
}
