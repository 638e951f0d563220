//! Quotas: a limit on the number of events within a window. Further events are counted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A sliding window. Its cost does not depend on the number of refused events.
#[derive(Debug, Clone)]
pub struct Quota {
    most: usize,
    window: Duration,
    taken: VecDeque<Instant>,
    refused: u64,
}

impl Quota {
    /// Allows `most` events within any `window`.
    pub const fn new(most: usize, window: Duration) -> Self {
        Self { most, window, taken: VecDeque::new(), refused: 0 }
    }

    /// Returns true if another event is allowed now.
    pub fn has_room(&mut self, now: Instant) -> bool {
        while self.taken.front().is_some_and(|at| now.saturating_duration_since(*at) >= self.window) {
            self.taken.pop_front();
        }
        self.taken.len() < self.most
    }

    /// Takes one, and returns the number refused since the last one that was taken. `None`: this one is refused.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        if !self.has_room(now) {
            self.refuse(1);
            return None;
        }
        self.taken.push_back(now);
        Some(self.take_refused())
    }

    /// Counts events that are refused for another reason.
    pub fn refuse(&mut self, count: u64) {
        self.refused = self.refused.saturating_add(count);
    }

    /// Returns the number refused since one was last taken, and resets it.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// The time at which another event is allowed; `None`: now.
    pub fn has_room_at(&mut self, now: Instant) -> Option<Instant> {
        if self.has_room(now) { None } else { self.taken.front().map(|first| *first + self.window) }
    }
}

/// The limit for a worker's reports to worker-manager: one a minute and 20 an hour. A runner has one limit for all its
/// runs; clones share it.
#[derive(Debug, Clone)]
pub struct ReportLimit(Arc<Mutex<(Quota, Quota)>>);

impl Default for ReportLimit {
    fn default() -> Self {
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(60 * 60));
        Self(Arc::new(Mutex::new((Quota::new(1, minute), Quota::new(20, hour)))))
    }
}

impl ReportLimit {
    /// Takes one, and returns the number not sent since the last one. `None`: this one must not be sent, either.
    pub fn take(&self, now: Instant) -> Option<u64> {
        let mut quotas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (minute, hour) = &mut *quotas;
        if !hour.has_room(now) {
            minute.refuse(1);
            return None;
        }
        let further = minute.take(now)?;
        hour.take(now);
        Some(further)
    }

    /// Counts reports that were not sent for another reason.
    pub fn not_sent(&self, count: u64) {
        let mut quotas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        quotas.0.refuse(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_window_has_more_than_its_quota_and_the_rest_is_counted() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut quota = Quota::new(2, 10 * second);
        assert_eq!(quota.take(start), Some(0));
        assert_eq!(quota.take(start + 5 * second), Some(0));
        for after in 6..10 {
            assert_eq!(quota.take(start + after * second), None);
        }
        assert_eq!(quota.has_room_at(start + 9 * second), Some(start + 10 * second));
        assert_eq!(quota.take(start + 10 * second), Some(4));
        assert_eq!(quota.take(start + 11 * second), None);
        assert_eq!(quota.take(start + 15 * second), Some(1));
    }

    #[test]
    fn a_worker_sends_one_report_a_minute_and_20_an_hour_and_the_rest_is_counted() {
        let limit = ReportLimit::default();
        let (mut sent, mut counted, start) = (Vec::new(), 0, Instant::now());
        for second in 0..7200 {
            if let Some(further) = limit.clone().take(start + Duration::from_secs(second)) {
                sent.push(second);
                counted += further;
            }
        }
        assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= 60), "{sent:?}");
        for hour in 0..3600 {
            let within = sent.iter().filter(|second| (hour..hour + 3600).contains(*second)).count();
            assert!(within <= 20, "{within} from {hour} s");
        }
        let last = usize::try_from(*sent.last().unwrap()).unwrap();
        assert_eq!((sent.len(), counted), (40, u64::try_from(last + 1 - sent.len()).unwrap()));
    }
}
