//! Wall-clock time as a parameter, so that a test can set it, stop it and make it jump.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::fmt::temporal::Pieces;

/// Interval at which a wait by the wall clock checks the clock, because the host may have slept or its clock may have
/// jumped.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The wall-clock time (UTC), for everything with a date: certificates, logs. Timers are tokio's.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;

    /// The interval after which a wait by this clock checks it again.
    fn look_again(&self) -> Duration {
        LOOK_AGAIN
    }
}

/// A date from outside. A date after [`Timestamp::MAX`] (near the end of the year 9999) exceeds the range of
/// computation, and means never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Date {
    /// A date within the range of computation.
    At(Timestamp),
    /// A date that is never reached.
    Never,
}

impl Date {
    /// Parses an RFC 3339 date, also with the six-digit years of ECMAScript (`+275760-09-13…`). `None`: the text is not
    /// a date.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(time) = text.parse() {
            return Some(Self::At(time));
        }
        let within = |text: &str| {
            let pieces = Pieces::parse(text).ok()?;
            // Without a time and an offset, the text is not a point in time.
            pieces.time()?;
            pieces.to_numeric_offset()?;
            Some(pieces.date())
        };
        match text.strip_prefix('+') {
            Some(late) => {
                let (year, rest) = late.split_at_checked(6)?;
                let year = year.parse::<u32>().ok().filter(|_| rest.starts_with('-'))?;
                // A leap year, so that February 29 is valid.
                within(&format!("2000{rest}")).filter(|_| year > 9999).map(|_| Self::Never)
            }
            None => within(text).filter(|date| date.year() == 9999).map(|_| Self::Never),
        }
    }

    /// Parses an HTTP date (RFC 9110, section 5.6.7). `None`: the text is not a date.
    pub fn parse_http(text: &str) -> Option<Self> {
        let time = httpdate::parse_http_date(text).ok()?;
        // No HTTP date is before 1970.
        Some(Timestamp::try_from(time).map_or(Self::Never, Self::At))
    }

    /// The date this many milliseconds after 1970.
    pub fn from_millisecond(milliseconds: i64) -> Self {
        match Timestamp::from_millisecond(milliseconds) {
            Ok(time) => Self::At(time),
            Err(_) if milliseconds < 0 => Self::At(Timestamp::MIN),
            Err(_) => Self::Never,
        }
    }

    /// The date, or the last one in the range of computation.
    pub fn or_last(self) -> Timestamp {
        self.time().unwrap_or(Timestamp::MAX)
    }

    /// The date; `None`: never.
    pub fn time(self) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(time),
            Self::Never => None,
        }
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

/// The host's own clock, whose waits check it at common times, so that an idle runner wakes up once a minute, however
/// many dates are awaited.
#[derive(Debug, Clone, Copy)]
pub struct CommonClock {
    began: Instant,
}

impl CommonClock {
    /// Slightly less than a minute, and a multiple of 4,096 ms, which is the resolution at which tokio's timer wheel
    /// keeps timers of up to some minutes. A timer between these times wakes the runtime once or twice more, when it is
    /// moved to a finer level of the wheel.
    const COMMON: Duration = Duration::from_millis(14 * 4096);

    /// Must be called just before the runtime is created, so that both count from the same time.
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

/// The time from `elapsed` to the next multiple of `period`.
fn until_next(period: Duration, elapsed: Duration) -> Duration {
    let over = elapsed.as_nanos() % period.as_nanos().max(1);
    period.saturating_sub(Duration::from_nanos(u64::try_from(over).unwrap_or_default()))
}

/// Waits until the wall clock reaches `time`.
pub async fn wait_until(time: Timestamp, clock: &dyn Clock) {
    loop {
        let left = Duration::try_from(time.duration_since(clock.now())).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(clock.look_again())).await;
    }
}

/// Waits this long. Time during which the host sleeps counts; setting the clock back does not extend the wait.
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
    fn a_date_beyond_what_can_be_computed_with_never_comes() {
        for never in [
            "9999-12-31T23:59:59.999Z",
            "9999-12-31T23:59:59Z",
            "9999-12-31T23:59:59.999999999-12:00",
            "+275760-09-13T00:00:00.000Z",
            "+010000-02-29T00:00:00Z",
        ] {
            assert_eq!(Date::parse(never), Some(Date::Never), "{never}");
        }
        for at in [
            "9999-12-30T22:00:00Z",
            "2026-11-27T18:32:47.966Z",
            "0001-01-01T00:00:00.000Z",
            "9999-06-01T00:00:00+01:00",
        ] {
            assert_eq!(Date::parse(at), Some(Date::At(at.parse().unwrap())), "{at}");
        }
    }

    #[test]
    fn what_is_no_date_is_none_however_late_its_year() {
        for text in [
            "",
            "9999",
            "9999-12-31",
            "9999-12-31T23:59:59",
            "9999-13-31T23:59:59Z",
            "9999-12-31T25:00:00Z",
            "+275760-13-13T00:00:00Z",
            "+009999-12-31T25:59:59Z",
            "+2757600-09-13T00:00:00Z",
            "+275760",
            "never",
            "2026-02-30T00:00:00Z",
            "+é",
            "10000-01-01T00:00:00Z",
        ] {
            assert_eq!(Date::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_date_of_http_can_be_the_last_second_of_the_last_year() {
        assert_eq!(Date::parse_http("Fri, 31 Dec 9999 23:59:59 GMT"), Some(Date::Never));
        let time = Date::parse_http("Mon, 19 Sep 2016 18:29:47 GMT").and_then(Date::time);
        assert_eq!(time.unwrap().to_string(), "2016-09-19T18:29:47Z");
        assert_eq!(Date::parse_http("Fri, 32 Dec 9999 23:59:59 GMT"), None);
    }

    #[test]
    fn milliseconds_that_no_date_has_are_never_or_long_ago() {
        assert_eq!(
            Date::from_millisecond(1_795_804_367_966).time().unwrap().to_string(),
            "2026-11-27T18:32:47.966Z"
        );
        // The end of 9999, the end of ECMAScript's range, the end of i64.
        for late in [253_402_300_799_999, 8_640_000_000_000_000, i64::MAX] {
            assert_eq!(Date::from_millisecond(late), Date::Never);
        }
        assert_eq!(Date::from_millisecond(i64::MIN), Date::At(Timestamp::MIN));
    }

    #[test]
    fn the_common_clock_tells_the_hosts_time() {
        let (before, now, after) = (SystemClock.now(), CommonClock::new().now(), SystemClock.now());
        assert!(before <= now && now <= after);
    }
}
