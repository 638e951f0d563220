//! Tries a call until it works, is refused, or its caller's patience is at an end.
//!
//! A failed attempt says itself what may follow ([`Next`]). Between attempts lies a back-off with full jitter, or what
//! the answer's `Retry-After` asks for. The last attempt is made a moment before the end, whatever the back-off says.

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
/// The last one, where the effort ends.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The last one, where it does not.
const LONGEST_WAIT_FOREVER: Duration = Duration::from_secs(5 * 60);
/// What is left for the last attempt, at least.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// Wall-clock waits look at the clock this often: hosts sleep, and clocks jump.
const LOOK_AT_THE_CLOCK: Duration = Duration::from_secs(60);
/// How often a call that keeps failing is logged.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// How long a call is tried. It is always tried once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// One attempt.
    Once,
    /// As long as this takes.
    For(Duration),
    /// Until this moment by the wall clock.
    Until(Timestamp),
    /// Until it works or is refused. The back-off grows to five minutes.
    Forever,
}

/// An effort that has begun.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Once,
    At(Instant),
    AtDate(Timestamp),
    Never,
}

impl End {
    /// What is left until then; `None`: for ever.
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
            // What overflows the clock is for ever.
            Effort::For(time) => Instant::now().checked_add(time).map_or(Self::Never, Self::At),
            Effort::Until(date) => Self::AtDate(date),
            Effort::Forever => Self::Never,
        }
    }
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: Why,
    pub(super) next: Next,
    /// Whether the call may have been carried out all the same.
    pub(super) may_have_been_done: bool,
}

/// What may follow a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: the answer will not change.
    Nothing,
    /// Another attempt at once, but only one: something was put right.
    AtOnce,
    /// Another attempt after the back-off.
    Later,
    /// Another attempt after this time, or a little more.
    After(Duration),
}

impl Failure {
    /// What will not change by itself.
    pub(super) fn permanent(why: Why) -> Self {
        Self { why, next: Next::Nothing, may_have_been_done: false }
    }

    pub(super) fn is_permanent(&self) -> bool {
        matches!(self.next, Next::Nothing | Next::AtOnce)
    }
}

/// On what terms attempts are made.
pub(super) struct Terms<'a> {
    pub(super) end: End,
    /// The longest that one attempt may take.
    pub(super) attempt: Duration,
    pub(super) clock: &'a dyn Clock,
    /// Who is told of a failure that is followed by another attempt.
    pub(super) trouble: &'a CurrentRetry,
    /// What every attempt waits for; `None`: nothing.
    pub(super) pace: Option<&'a Pace>,
}

impl Terms<'_> {
    /// How long the next attempt may take: not beyond the end, but for a moment.
    fn attempt_limit(&self) -> Duration {
        let left = match self.end {
            End::Once => None,
            end => end.left(self.clock),
        };
        left.map_or(self.attempt, |left| left.max(LAST_MOMENT).min(self.attempt))
    }

    /// How long to wait for the next attempt, where this is wanted; `None`: there is no time for another one.
    fn wait(&self, wanted: Duration) -> Option<Duration> {
        let Some(left) = self.end.left(self.clock) else { return Some(wanted) };
        let before_the_last = left.checked_sub(LAST_MOMENT).filter(|left| !left.is_zero())?;
        Some(wanted.min(before_the_last))
    }

    /// Waits, but not beyond the end, which a clock that jumps may bring near; whether there is time left.
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

/// Makes attempts until one succeeds, on these terms.
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
            // Jitter here, too: the others were told the same.
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

/// What happened to a call so far, and when it was last told.
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
            warn!(call, %error, next_in, "a call to Taskcluster fails: trying again");
        } else {
            let since = span(self.began.elapsed());
            warn!(call, %error, attempts, since, next_in, "a call to Taskcluster still fails: trying again");
        }
    }

    fn works(&self) {
        if self.told.is_some() {
            let (call, attempts) = (self.call.name, self.attempts.saturating_add(1));
            info!(call, attempts, after = span(self.began.elapsed()), "a call to Taskcluster works again");
        }
    }

    /// With a no, which may be what its caller expects.
    fn is_answered(&self) {
        if self.told.is_some() {
            let (call, attempts) = (self.call.name, self.attempts);
            info!(
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
