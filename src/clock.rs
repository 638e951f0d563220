//! Wall-clock time as an argument, so that a test can set it, stop it and make it jump.

use jiff::Timestamp;

/// Tells the wall-clock time (UTC). Timers are tokio's; this is for what has a date: certificates, logs.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> Timestamp;
}

/// The host's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
