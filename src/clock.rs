//! Wall-clock time as an argument, so that a test can set it, stop it and make it jump.

use std::time::Duration;

use jiff::Timestamp;

/// A wait by the wall clock looks again after this: the host may have slept, or its clock have jumped.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

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

/// Waits until the wall clock shows `time` or more.
pub async fn wait_until(time: Timestamp, clock: &dyn Clock) {
    loop {
        let left = Duration::try_from(time.duration_since(clock.now())).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_AGAIN)).await;
    }
}

/// Waits this long. What the host sleeps counts; a clock that is set back does not make it longer.
pub async fn wait_for(time: Duration, clock: &dyn Clock) {
    let (began, began_at) = (tokio::time::Instant::now(), clock.now());
    loop {
        let slept_too = Duration::try_from(clock.now().duration_since(began_at)).unwrap_or_default();
        let left = time.saturating_sub(began.elapsed().max(slept_too));
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_AGAIN)).await;
    }
}
