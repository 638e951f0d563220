//! Limits of time and resources, and the faults that excuse exceeding them.

use std::time::{Duration, Instant};

use crate::world::{KILL_TIMEOUT, STOP_TIMEOUT};

/// Extra time on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(8);
/// All that may follow a stop: the hello is waited for, the worker stopped, what it left killed, its output read, a
/// last answer waited for, a removal ended, and the log written.
pub(crate) const STOP: Duration =
    Duration::from_secs(5 + 2 + 5 + 5 + 5).saturating_add(STOP_TIMEOUT).saturating_add(KILL_TIMEOUT);
/// Time limit of an answer at the status socket.
pub(crate) const ANSWER: Duration = Duration::from_secs(2);
/// Time limit for the end of the log.
pub(crate) const LAST_LINES: Duration = start_worker::LAST_LINES_TIME;
/// Extra time on a failing disk: the runner waits for the cache's writer.
pub(crate) const DISK: Duration = Duration::from_secs(30 + 10 + 1);
/// Time within which a failed write is retried.
pub(crate) const DISK_AGAIN: Duration = Duration::from_secs(70);
/// A sleep is noticed so late.
pub(crate) const SLEEP_NOTICED: Duration = Duration::from_secs(60);
/// A notice is looked for so often.
pub(crate) const NOTICE_NOTICED: Duration = Duration::from_secs(5);

/// Of the runner.
pub(crate) const MOST_MEMORY_KIB: u64 = 32 * 1024;
/// A process with less memory is about to be executed.
pub(crate) const JUST_EXECUTED_KIB: u64 = 256;
pub(crate) const MOST_FILES: usize = 64;
pub(crate) const MOST_THREADS: u64 = 24;

/// The last time of each condition, to recognise possible consequences of a fault.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lately {
    pub(crate) disk: Option<Instant>,
    /// Of a read-only disk nothing can be removed either.
    pub(crate) read_only: Option<Instant>,
    pub(crate) metadata: Option<Instant>,
    pub(crate) few_files: Option<Instant>,
    pub(crate) slow_log: Option<Instant>,
    pub(crate) jump: Option<Instant>,
    /// For how long the runner was kept from running, in all.
    pub(crate) frozen: Duration,
}

/// Returns true if less than `time` has passed since.
pub(crate) fn since(last: Option<Instant>, time: Duration) -> bool {
    last.is_some_and(|last| last.elapsed() < time)
}
