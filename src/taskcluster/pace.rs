//! A limit on all calls to Taskcluster, whatever the answers, the clocks and the configuration cause the runner to do:
//! a burst, as a start or an end needs it, and one call every few seconds in the long run.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The long-term minimum interval between calls.
pub const CALL_EVERY: Duration = Duration::from_secs(5);

/// The size of a burst. A start needs about five calls, and a failing call is retried several times.
const AT_ONCE: u32 = 12;

/// The limiter. Clones share it.
#[derive(Debug, Clone)]
pub struct Pace(Arc<Mutex<Instant>>);

impl Default for Pace {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Pace {
    /// Waits until the next call may be made. Callers are served in the order in which they called.
    pub(super) async fn turn(&self) {
        sleep_until(self.next()).await;
    }

    /// Reserves the next slot and returns its time.
    fn next(&self) -> Instant {
        let now = Instant::now();
        // The time at which a full burst is available again.
        let mut rested = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = rested.checked_sub(CALL_EVERY * (AT_ONCE - 1)).map_or(now, |turn| turn.max(now));
        *rested = (*rested).max(now) + CALL_EVERY;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn some_calls_come_at_once_and_then_one_every_five_seconds() {
        let pace = Pace::default();
        let start = Instant::now();
        let mut turns = Vec::new();
        for _ in 0..AT_ONCE + 20 {
            pace.turn().await;
            turns.push(start.elapsed().as_secs());
        }
        let at_once = turns.iter().filter(|second| **second == 0).count();
        assert_eq!(u32::try_from(at_once).unwrap(), AT_ONCE);
        assert!(
            turns[at_once..].iter().enumerate().all(|(index, second)| *second == 5 * (index as u64 + 1)),
            "{turns:?}"
        );
        tokio::time::sleep(CALL_EVERY * AT_ONCE).await;
        let rested = Instant::now();
        for _ in 0..AT_ONCE {
            pace.turn().await;
        }
        assert_eq!(rested.elapsed(), Duration::ZERO);
    }
}
