//! The runner's counters, for observers. Every part updates its own, without waiting for others.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A label's value.
pub type Label = Cow<'static, str>;

/// The counters of one runner. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Counts>);

#[derive(Debug)]
pub struct Counts {
    /// The number of starts after the first.
    pub restarts: AtomicU64,
    /// The number of processes that the kernel killed for lack of memory while the worker ran.
    pub oom_kills: AtomicU64,
    /// The worker's exits, by class.
    pub exits: By<1>,
    /// Tasks that have ended, by result.
    pub tasks: By<1>,
    /// Renewals of the credentials, by result; `failed` counts a renewal once, not each of its attempts.
    pub renewals: By<1>,
    /// Requests to Taskcluster, by call and status.
    pub requests: By<2>,
    /// The duration of requests to Taskcluster, by call.
    pub request_times: Times,
    /// Polls for new deployments and interruptions, by source and result.
    pub polls: By<2>,
    /// Notices of interruptions, by source and action.
    pub notices: By<2>,
    /// The offset of Taskcluster's clock from the host's, in seconds, and when it was determined.
    clock_offset: Mutex<Option<(i64, Instant)>>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            restarts: AtomicU64::new(0),
            oom_kills: AtomicU64::new(0),
            exits: By::default(),
            tasks: By::default(),
            renewals: By::default(),
            requests: By::default(),
            request_times: Times::default(),
            polls: By::default(),
            notices: By::default(),
            clock_offset: Mutex::default(),
        }
    }
}

impl std::ops::Deref for Counters {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.0
    }
}

impl Counts {
    /// Sets the number of seconds by which Taskcluster's clock is ahead of the host's.
    pub fn set_clock_offset(&self, seconds: i64) {
        *self.clock_offset.lock().unwrap_or_else(PoisonError::into_inner) = Some((seconds, Instant::now()));
    }

    /// Returns how far Taskcluster's clock is ahead of the host's, in seconds. `None`: it has not answered within this
    /// time.
    pub fn clock_offset(&self, within: Duration) -> Option<i64> {
        let known = *self.clock_offset.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(_, at)| at.elapsed() <= within).map(|(offset, _)| offset)
    }
}

/// Counts by labels, for events that happen at most a few times a second.
#[derive(Debug)]
pub struct By<const LABELS: usize>(Mutex<BTreeMap<[Label; LABELS], u64>>);

impl<const LABELS: usize> Default for By<LABELS> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<const LABELS: usize> By<LABELS> {
    /// Increments a counter.
    pub fn count(&self, labels: [impl Into<Label>; LABELS]) {
        self.add(labels, 1);
    }

    /// So many more.
    pub fn add(&self, labels: [impl Into<Label>; LABELS], number: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(labels.map(Into::into)).or_default() += number;
    }

    pub fn all(&self) -> BTreeMap<[Label; LABELS], u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The upper bounds of [`Times`], in seconds: from an answer on the same network to one at the time limit.
pub const BOUNDS: [f64; 8] = [0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Durations by label.
#[derive(Debug, Default)]
pub struct Times(Mutex<BTreeMap<&'static str, Spread>>);

/// A distribution of durations.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    /// The number of durations up to the bound of the same index.
    pub within: [u64; BOUNDS.len()],
    /// The number of all durations.
    pub count: u64,
    /// The sum of all durations, in seconds.
    pub seconds: f64,
}

impl Times {
    /// Records a duration.
    pub fn took(&self, what: &'static str, time: Duration) {
        let seconds = time.as_secs_f64();
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let spread = times.entry(what).or_default();
        for (count, bound) in spread.within.iter_mut().zip(BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
        spread.count += 1;
        spread.seconds += seconds;
    }

    pub fn all(&self) -> BTreeMap<&'static str, Spread> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_counted_apart_and_clones_together() {
        let counters = Counters::default();
        counters.clone().polls.count(["workerPool", "ok"]);
        counters.polls.count(["workerPool", "ok"]);
        counters.polls.count(["workerPool", "failed"]);
        let all: Vec<_> =
            counters.polls.all().into_iter().map(|([_, result], count)| (result, count)).collect();
        assert_eq!(all, [("failed".into(), 1), ("ok".into(), 2)]);
    }

    #[test]
    fn times_are_counted_under_every_bound_that_they_keep() {
        let times = Times::default();
        for millis in [25, 26, 90_000] {
            times.took("ping", Duration::from_millis(millis));
        }
        let spread = times.all()["ping"];
        assert_eq!((spread.within, spread.count), ([1, 2, 2, 2, 2, 2, 2, 2], 3));
        assert!((spread.seconds - 90.051).abs() < 1e-6);
    }

    #[test]
    fn the_clocks_offset_is_not_known_before_somebody_has_told_the_time() {
        let counters = Counters::default();
        assert_eq!(counters.clock_offset(Duration::MAX), None);
        counters.set_clock_offset(-3);
        assert_eq!(counters.clock_offset(Duration::from_secs(3600)), Some(-3));
        let later = Instant::now();
        while Instant::now() <= later {}
        assert_eq!(counters.clock_offset(Duration::ZERO), None, "the answer was longer ago");
    }
}
