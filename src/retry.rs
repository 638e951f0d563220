//! Back-off between retries. Pure: the caller supplies the timer and the random numbers.

use std::time::Duration;

/// Exponential back-off with full jitter: every wait is a random time up to a ceiling that doubles with each wait, so
/// that machines that failed at the same moment do not retry at the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    ceiling: Duration,
    longest: Duration,
}

impl Backoff {
    /// `first` is the first ceiling, `longest` the last.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { ceiling: first.min(longest), longest }
    }

    pub fn next_wait(&mut self, chance: &mut fastrand::Rng) -> Duration {
        let wait = self.ceiling.mul_f64(chance.f64());
        self.ceiling = self.ceiling.saturating_mul(2).min(self.longest);
        wait
    }
}

/// `supervision.failureBackoff`: the pause before a start that follows failed runs, over processes and boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureBackoff {
    /// The pause after the first failed run. Zero: there are no pauses.
    pub initial: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl FailureBackoff {
    /// Each pause is so many times as long as the one before it. With the defaults (30 s, 2 min, 8 min, 30 min) a worker
    /// that fails at once is started three times in five minutes.
    const GROWTH: u32 = 4;

    /// The pause after so many failed runs in a row.
    pub fn pause(&self, failed_runs: u32) -> Duration {
        let Some(steps) = failed_runs.checked_sub(1) else { return Duration::ZERO };
        self.initial.saturating_mul(Self::GROWTH.saturating_pow(steps)).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_longest_wait() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(Duration::from_millis(500), seconds(30));
        let mut ceilings = Vec::new();
        for _ in 0..9 {
            ceilings.push(backoff.ceiling.as_millis());
            backoff.next_wait(&mut fastrand::Rng::with_seed(1));
        }
        assert_eq!(ceilings, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        let mut endless = Backoff::new(Duration::MAX, Duration::MAX);
        endless.next_wait(&mut fastrand::Rng::with_seed(1));
        assert_eq!(endless.ceiling, Duration::MAX);
        assert_eq!(Backoff::new(seconds(5), seconds(2)).ceiling, seconds(2));
    }

    #[test]
    fn pauses_after_failed_runs_grow_up_to_the_longest() {
        let seconds = Duration::from_secs;
        let backoff = FailureBackoff { initial: seconds(30), max: seconds(1800) };
        let pauses = [0, 1, 2, 3, 4, 5, u32::MAX].map(|failed| backoff.pause(failed).as_secs());
        assert_eq!(pauses, [0, 30, 120, 480, 1800, 1800, 1800]);
        let none = FailureBackoff { initial: Duration::ZERO, max: seconds(1800) };
        assert_eq!(none.pause(7), Duration::ZERO);
    }

    #[test]
    fn waits_are_spread_over_all_that_is_below_the_ceiling() {
        let mut chance = fastrand::Rng::with_seed(7);
        let waits: Vec<f64> = (0..1000)
            .map(|_| Backoff::new(Duration::from_secs(8), Duration::from_secs(8)).next_wait(&mut chance))
            .map(|wait| wait.as_secs_f64())
            .collect();
        assert!(waits.iter().all(|wait| *wait < 8.0));
        for quarter in [0.0, 2.0, 4.0, 6.0] {
            let here = waits.iter().filter(|wait| (quarter..quarter + 2.0).contains(*wait)).count();
            assert!((200..300).contains(&here), "{here} of 1000 waits from {quarter} s");
        }
    }
}
