//! Wall-clock time as an argument, so that a test can set it, stop it and make it jump.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A wait by the wall clock looks again after this: the host may have slept, or its clock have jumped.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Tells the wall-clock time (UTC). Timers are tokio's; this is for what has a date: certificates, logs.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> Timestamp;

    /// After which time a wait by this clock looks at it again.
    fn look_again(&self) -> Duration {
        LOOK_AGAIN
    }
}

/// The host's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The host's own clock, whose waits all look again at the same moments: whoever waits for a date, a runner at rest wakes
/// once a minute.
#[derive(Debug, Clone, Copy)]
pub struct CommonClock {
    began: Instant,
}

impl CommonClock {
    /// A little less than a minute, and a multiple of 4,096 ms: that is how coarse the wheel is in which tokio keeps timers
    /// of up to some minutes. One that is due between wakes the runtime once or twice more to be put where it is finer.
    const COMMON: Duration = Duration::from_millis(14 * 4096);

    /// To be made just before the runtime, whose time then begins with it.
    #[expect(clippy::new_without_default, reason = "it matters when it is made")]
    pub fn new() -> Self {
        Self { began: Instant::now() }
    }
}

impl Clock for CommonClock {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn look_again(&self) -> Duration {
        until_next(Self::COMMON, self.began.elapsed())
    }
}

/// From `elapsed` to the next multiple of `period`.
fn until_next(period: Duration, elapsed: Duration) -> Duration {
    let over = elapsed.as_nanos() % period.as_nanos().max(1);
    period.saturating_sub(Duration::from_nanos(u64::try_from(over).unwrap_or_default()))
}

/// Waits until the wall clock shows `time` or more.
pub async fn wait_until(time: Timestamp, clock: &dyn Clock) {
    loop {
        let left = Duration::try_from(time.duration_since(clock.now())).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(clock.look_again())).await;
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
        tokio::time::sleep(left.min(clock.look_again())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whenever_waits_begin_they_look_again_together_and_within_a_minute() {
        let period = CommonClock::COMMON;
        assert!(period < LOOK_AGAIN);
        for begun in [0, 1, 4_096, 57_343, 57_344, 57_345, 1_000_000, 86_400_000].map(Duration::from_millis) {
            let next = until_next(period, begun);
            assert!(!next.is_zero() && next <= period, "{begun:?}");
            assert_eq!((begun + next).as_millis() % period.as_millis(), 0, "{begun:?}");
        }
    }

    #[test]
    fn the_common_clock_tells_the_hosts_time() {
        let (before, now, after) = (SystemClock.now(), CommonClock::new().now(), SystemClock.now());
        assert!(before <= now && now <= after);
    }
}
