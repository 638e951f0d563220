//! Credentials that expire and cannot be renewed: the worker is drained in time, and stopped before they expire.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tracing::warn;

use crate::clock::{Clock, wait_until};
use crate::event::{Cause, Event, Strength};

/// The time before expiry at which the worker is asked to finish its tasks.
const DRAIN_BEFORE: SignedDuration = SignedDuration::from_mins(30);

/// The maximum time before expiry at which the worker is stopped.
const MARGIN: SignedDuration = SignedDuration::from_mins(2);

/// The schedule for credentials that expire and cannot be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The time of the drain: 30 min before the end, or half the remaining time.
    pub drain: Timestamp,
    /// The time of the stop: 2 min before the end, or a quarter of the remaining time.
    pub stop: Timestamp,
}

impl Schedule {
    /// The schedule for credentials obtained `now`; `None` if they have already expired.
    pub fn new(now: Timestamp, expires: Timestamp) -> Option<Self> {
        let left = expires.duration_since(now);
        if left <= SignedDuration::ZERO {
            return None;
        }
        let before = |time: SignedDuration| expires.checked_sub(time).unwrap_or(expires);
        Some(Self { drain: before(DRAIN_BEFORE.min(left / 2)), stop: before(MARGIN.min(left / 4)) })
    }
}

/// Requests a drain, then a stop, each at its time by the wall clock.
pub async fn watch(schedule: Schedule, clock: Arc<dyn Clock>, events: mpsc::Sender<Event>) {
    for (at, strength) in [(schedule.drain, Strength::Drain), (schedule.stop, Strength::Stop)] {
        wait_until(at, &*clock).await;
        warn!(name: "credentials-expiring", %strength, "the worker's credentials run out and cannot be renewed: get new ones into the runner configuration");
        if events.send(Event::Asked { strength, cause: Cause::CredentialsExpiring }).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::clock_tests::TestClock;
    use super::*;

    fn hours(count: i64) -> SignedDuration {
        SignedDuration::from_hours(count)
    }

    #[test]
    fn a_long_certificate_drains_30_minutes_and_stops_2_minutes_before_its_end() {
        let start = Timestamp::UNIX_EPOCH;
        let schedule = Schedule::new(start, start + hours(96)).unwrap();
        assert_eq!(schedule.drain, start + hours(96) - SignedDuration::from_mins(30));
        assert_eq!(schedule.stop, start + hours(96) - SignedDuration::from_mins(2));
    }

    #[test]
    fn a_short_certificate_leaves_the_worker_half_its_time() {
        let start = Timestamp::UNIX_EPOCH;
        let schedule = Schedule::new(start, start + SignedDuration::from_secs(40)).unwrap();
        assert_eq!(schedule.drain, start + SignedDuration::from_secs(20));
        assert_eq!(schedule.stop, start + SignedDuration::from_secs(30));
    }

    #[test]
    fn an_expired_certificate_has_no_schedule() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(Schedule::new(now, now), None);
        assert_eq!(Schedule::new(now + hours(1), now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_sleeps_is_noticed_within_a_minute_of_waking() {
        let clock = TestClock::new();
        let schedule = Schedule::new(clock.now(), clock.now() + hours(10)).unwrap();
        let (sender, mut events) = mpsc::channel(4);
        tokio::spawn(watch(schedule, clock.clone(), sender));
        tokio::time::sleep(Duration::from_secs(30)).await;
        clock.jump(hours(9) + SignedDuration::from_mins(45));
        let before = tokio::time::Instant::now();
        let event = events.recv().await.unwrap();
        assert_eq!(event, Event::Asked { strength: Strength::Drain, cause: Cause::CredentialsExpiring });
        assert!(before.elapsed() <= Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn the_stop_follows_the_drain() {
        let clock = TestClock::new();
        let schedule = Schedule::new(clock.now(), clock.now() + hours(1)).unwrap();
        let (sender, mut events) = mpsc::channel(4);
        tokio::spawn(watch(schedule, clock.clone(), sender));
        let strengths = [events.recv().await.unwrap(), events.recv().await.unwrap()];
        let asked = |strength| Event::Asked { strength, cause: Cause::CredentialsExpiring };
        assert_eq!(strengths, [asked(Strength::Drain), asked(Strength::Stop)]);
        assert_eq!(clock.now(), schedule.stop);
    }
}
