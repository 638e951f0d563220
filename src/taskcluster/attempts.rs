//! Attempts a call until it succeeds, is refused, or the caller's [`Effort`] is spent.
//!
//! A failed attempt determines what may follow it ([`Next`]). Attempts are separated by a back-off with full jitter, or
//! by the time that the answer's `Retry-After` requests. The last attempt is made a moment before the end, whatever the
//! back-off is.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::error::{CallError, Target, Tried, Why, span};
use super::pace::Pace;
use crate::clock::Clock;
use crate::retry::Backoff;
use crate::telemetry::current_retry::CurrentRetry;

/// The first ceiling of the back-off.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The highest ceiling of an effort that ends.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The highest ceiling of an effort that does not end.
const LONGEST_WAIT_FOREVER: Duration = Duration::from_secs(5 * 60);
/// The minimum time for the last attempt.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// Interval at which a wait until a date checks the clock, because hosts sleep and clocks jump.
const LOOK_AT_THE_CLOCK: Duration = Duration::from_secs(60);
/// Interval of the warnings about a call that keeps failing.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The time within which a call is attempted. At least one attempt is always made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// One attempt.
    Once,
    /// For this long.
    For(Duration),
    /// Until this time by the wall clock.
    Until(Timestamp),
    /// Until the call succeeds or is refused. The back-off grows to five minutes.
    Forever,
}

/// The end of an effort that has begun.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Once,
    At(Instant),
    AtDate(Timestamp),
    Never,
}

impl End {
    /// The remaining time; `None`: unlimited.
    fn left(self, clock: &dyn Clock) -> Option<Duration> {
        match self {
            Self::Once => Some(Duration::ZERO),
            Self::At(end) => Some(end.saturating_duration_since(Instant::now())),
            Self::AtDate(end) => Some(end.duration_since(clock.now()).try_into().unwrap_or(Duration::ZERO)),
            Self::Never => None,
        }
    }
}

impl From<Effort> for End {
    fn from(effort: Effort) -> Self {
        match effort {
            Effort::Once => Self::Once,
            // A time that exceeds the clock's range is unlimited.
            Effort::For(time) => Instant::now().checked_add(time).map_or(Self::Never, Self::At),
            Effort::Until(date) => Self::AtDate(date),
            Effort::Forever => Self::Never,
        }
    }
}

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: Why,
    pub(super) next: Next,
    /// True if Taskcluster may have executed the call nevertheless.
    pub(super) may_have_been_done: bool,
}

/// The next step after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// No further attempt: the answer will not change.
    Nothing,
    /// One immediate attempt, because its cause was corrected.
    AtOnce,
    /// Another attempt after the back-off.
    Later,
    /// Another attempt after this time, or slightly later.
    After(Duration),
}

impl Failure {
    /// A failure that retries cannot change.
    pub(super) fn permanent(why: Why) -> Self {
        Self { why, next: Next::Nothing, may_have_been_done: false }
    }

    pub(super) fn is_permanent(&self) -> bool {
        matches!(self.next, Next::Nothing | Next::AtOnce)
    }
}

/// The conditions under which attempts are made.
pub(super) struct Terms<'a> {
    pub(super) end: End,
    /// Time limit of one attempt.
    pub(super) attempt: Duration,
    pub(super) clock: &'a dyn Clock,
    /// Receives each failure that is followed by another attempt.
    pub(super) trouble: &'a CurrentRetry,
    /// Every attempt waits for this; `None`: no limit.
    pub(super) pace: Option<&'a Pace>,
}

impl Terms<'_> {
    /// Time limit of the next attempt: it may exceed the end only by a moment.
    fn attempt_limit(&self) -> Duration {
        let left = match self.end {
            End::Once => None,
            end => end.left(self.clock),
        };
        left.map_or(self.attempt, |left| left.max(LAST_MOMENT).min(self.attempt))
    }

    /// The wait before the next attempt, given the wanted one; `None`: no time is left for another attempt.
    fn wait(&self, wanted: Duration) -> Option<Duration> {
        let Some(left) = self.end.left(self.clock) else { return Some(wanted) };
        let before_the_last = left.checked_sub(LAST_MOMENT).filter(|left| !left.is_zero())?;
        Some(wanted.min(before_the_last))
    }

    /// Waits, but not beyond the end, which a clock jump may bring forward. Returns true if time is left.
    async fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            let wait = until.saturating_duration_since(Instant::now()).min(LOOK_AT_THE_CLOCK);
            if wait.is_zero() {
                return true;
            }
            sleep(wait).await;
            if self.end.left(self.clock).is_some_and(|left| left.is_zero()) {
                return false;
            }
        }
    }
}

/// Makes attempts under these terms until one succeeds.
pub(super) async fn keep_trying<T, F>(
    call: &Target,
    terms: Terms<'_>,
    mut attempt: impl FnMut() -> F,
) -> Result<T, CallError>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut story = RetryLog::new(call);
    let _over = terms.trouble.until_dropped();
    let longest = if matches!(terms.end, End::Never) { LONGEST_WAIT_FOREVER } else { LONGEST_WAIT };
    let (mut backoff, mut chance) = (Backoff::new(FIRST_WAIT, longest), fastrand::Rng::new());
    let mut put_right = false;
    loop {
        if let Some(pace) = terms.pace {
            pace.turn().await;
        }
        let limit = terms.attempt_limit();
        let failure = match timeout(limit, attempt()).await {
            Ok(Ok(value)) => {
                story.works();
                return Ok(value);
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure { why: Why::TimedOut(limit), next: Next::Later, may_have_been_done: true },
        };
        story.count(&failure);
        let wanted = match failure.next {
            Next::AtOnce if !put_right => {
                put_right = true;
                continue;
            }
            Next::AtOnce | Next::Nothing => {
                story.is_answered();
                return Err(story.ends(failure));
            }
            Next::Later => backoff.next_wait(&mut chance),
            // With jitter, because other workers received the same answer.
            Next::After(time) => time + backoff.next_wait(&mut chance),
        };
        let Some(wait) = terms.wait(wanted) else { return Err(story.ends(failure)) };
        story.tell(&failure, wait);
        terms.trouble.tell(&format!("{call}: {}", failure.why));
        if !terms.pause(wait).await {
            return Err(story.ends(failure));
        }
    }
}

/// The history of a call, and the time of its last log message.
struct RetryLog<'a> {
    call: &'a Target,
    began: Instant,
    attempts: u32,
    may_have_been_done: bool,
    told: Option<Instant>,
}

impl<'a> RetryLog<'a> {
    fn new(call: &'a Target) -> Self {
        Self { call, began: Instant::now(), attempts: 0, may_have_been_done: false, told: None }
    }

    fn count(&mut self, failure: &Failure) {
        self.attempts = self.attempts.saturating_add(1);
        self.may_have_been_done |= failure.may_have_been_done;
        debug!(call = self.call.name, attempt = self.attempts, why = %failure.why, "an attempt to call Taskcluster failed");
    }

    fn tell(&mut self, failure: &Failure, wait: Duration) {
        if self.told.is_some_and(|told| told.elapsed() < WARN_EVERY) {
            return;
        }
        let first = self.told.is_none();
        self.told = Some(Instant::now());
        let (call, error) = (self.call.name, format_args!("{}: {}", self.call, failure.why));
        let (attempts, next_in) = (self.attempts, span(wait));
        if first {
            warn!(name: "api-retry", call, %error, next_in, "a call to Taskcluster fails: trying again");
        } else {
            let since = span(self.began.elapsed());
            warn!(name: "api-retry", call, %error, attempts, since, next_in, "a call to Taskcluster still fails: trying again");
        }
    }

    fn works(&self) {
        if self.told.is_some() {
            let (call, attempts) = (self.call.name, self.attempts.saturating_add(1));
            info!(name: "api-recovered", call, attempts, after = span(self.began.elapsed()), "a call to Taskcluster works again");
        }
    }

    /// Logs an answer after failures. It may be a refusal that the caller expects.
    fn is_answered(&self) {
        if self.told.is_some() {
            let (call, attempts) = (self.call.name, self.attempts);
            info!(name: "api-recovered",
                call,
                attempts,
                after = span(self.began.elapsed()),
                "a call to Taskcluster is answered again"
            );
        }
    }

    fn ends(self, last: Failure) -> CallError {
        let Self { call, attempts, may_have_been_done, began, .. } = self;
        CallError::new(call.clone(), last, &Tried { attempts, took: began.elapsed(), may_have_been_done })
    }
}
