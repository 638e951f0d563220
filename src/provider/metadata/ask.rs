//! Repeats calls to a metadata service until there is an answer, within the patience of a start.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Answer, Failure, SOON, Service};
use crate::provider::{Patience, ProviderError};
use crate::telemetry::current_retry::CurrentRetry;

/// Time during which a required value may be absent, because metadata can lag behind the boot.
const LATE: Duration = Duration::from_secs(60);
/// Interval of the warnings about a continuing failure.
const QUIET: Duration = Duration::from_secs(60);
/// The ceilings of the first pause and of any pause.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Queries one service at start.
pub(in crate::provider) struct Asker {
    service: Service,
    started: Instant,
    patience: Option<Duration>,
    silence: Silence,
}

impl Asker {
    /// `patience` limits the total time of all calls.
    pub(in crate::provider) fn new(service: Service, patience: Patience) -> Self {
        let silence = Silence { since: None, told: None, trouble: patience.trouble };
        Self { service, started: Instant::now(), patience: patience.time, silence }
    }

    /// A path's full URL, for messages.
    pub(in crate::provider) fn url(&self, path: &str) -> String {
        self.service.url(path)
    }

    /// Reads a required value.
    pub(in crate::provider) async fn required(&mut self, path: &str) -> Result<String, ProviderError> {
        self.required_within(path, SOON).await
    }

    /// Reads a required value with a longer time limit.
    pub(in crate::provider) async fn required_within(
        &mut self,
        path: &str,
        limit: Duration,
    ) -> Result<String, ProviderError> {
        self.read(path, limit, |_, text| Ok(text.to_owned()), |_| None).await
    }

    /// Reads a required value that must not be empty.
    pub(in crate::provider) async fn required_text(
        &mut self,
        path: &str,
        limit: Duration,
    ) -> Result<String, ProviderError> {
        let not_empty = |what, text: &str| match text {
            "" => Err(ProviderError::Incomplete { what, why: "is empty".to_owned() }),
            text => Ok(text.to_owned()),
        };
        self.read(path, limit, not_empty, |_| None).await
    }

    /// Reads a required value that must be complete. If it is [incomplete](ProviderError::Incomplete), or lacks an
    /// optional part (`lacks`), it may become complete, and is requested again for a minute.
    pub(in crate::provider) async fn read<T>(
        &mut self,
        path: &str,
        limit: Duration,
        parse: impl Fn(String, &str) -> Result<T, ProviderError>,
        lacks: impl Fn(&T) -> Option<&'static str>,
    ) -> Result<T, ProviderError> {
        let url = self.url(path);
        let missing = |text: &str| match parse(url.clone(), text) {
            Err(cause @ ProviderError::Incomplete { .. }) => Some(cause.to_string()),
            Err(_) => None,
            Ok(read) => lacks(&read).map(|key| format!("{url}: `{key}` is missing")),
        };
        match self.ask(path, limit, Some(LATE), &missing).await? {
            Some(answer) => parse(url, &answer.text),
            None => Err(self.answer_error(path, &format!("{}, and it is needed", Failure::Absent))),
        }
    }

    /// Reads an optional value. Absent and empty are equivalent.
    pub(in crate::provider) async fn optional(
        &mut self,
        path: &str,
    ) -> Result<Option<String>, ProviderError> {
        let answer = self.ask(path, SOON, None, &|_| None).await?;
        Ok(answer.map(|answer| answer.text).filter(|text| !text.is_empty()))
    }

    /// Makes a call until there is an answer. `late`: the time during which an absence is not final. `missing`: the
    /// missing part of an answer, which may arrive as late.
    async fn ask(
        &mut self,
        path: &str,
        limit: Duration,
        late: Option<Duration>,
        missing: &impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Answer>, ProviderError> {
        let first = Instant::now();
        for attempt in 0.. {
            let failure = match self.service.get(path, limit).await {
                Ok(answer) => {
                    let missing = missing(&answer.text);
                    let wait = missing.as_ref().and_then(|_| self.wait(attempt, late, first));
                    let (Some(missing), Some(wait)) = (missing.as_ref(), wait) else {
                        match missing {
                            Some(missing) => self.silence.stays_incomplete(&missing),
                            None => self.silence.over(),
                        }
                        return Ok(Some(answer));
                    };
                    self.silence.is_incomplete(missing, wait);
                    sleep(wait).await;
                    continue;
                }
                Err(Failure::Absent) if late.is_none_or(|late| first.elapsed() >= late) => {
                    self.silence.over();
                    return Ok(None);
                }
                Err(failure) if !failure.may_pass() => {
                    return Err(self.answer_error(path, &failure.to_string()));
                }
                Err(failure) => failure,
            };
            let Some(wait) = self.wait(attempt, late.filter(|_| matches!(failure, Failure::Absent)), first)
            else {
                return match failure {
                    Failure::Absent => Ok(None),
                    failure => Err(self.gave_up(path, &failure)),
                };
            };
            self.silence.goes_on(&self.service.url(path), &failure, wait);
            sleep(wait).await;
        }
        Ok(None)
    }

    /// The wait until the next attempt, limited by the patience; `None`: no time is left.
    fn wait(&self, attempt: u32, late: Option<Duration>, first: Instant) -> Option<Duration> {
        let mut wait = pause(attempt);
        let ends = [self.patience.map(|time| (self.started, time)), late.map(|time| (first, time))];
        for (since, time) in ends.into_iter().flatten() {
            let left = time.saturating_sub(since.elapsed());
            if left.is_zero() {
                return None;
            }
            wait = wait.min(left);
        }
        Some(wait)
    }

    fn answer_error(&self, path: &str, why: &str) -> ProviderError {
        ProviderError::Answer { what: self.service.url(path), why: why.to_owned() }
    }

    fn gave_up(&self, path: &str, failure: &Failure) -> ProviderError {
        ProviderError::Unreachable {
            what: self.service.url(path),
            why: failure.to_string(),
            after: self.started.elapsed(),
        }
    }
}

/// An exponential back-off with full jitter, so that machines that boot together do not call together.
fn pause(attempt: u32) -> Duration {
    let (first, longest) = PAUSES;
    let ceiling = first.saturating_mul(2_u32.saturating_pow(attempt)).min(longest);
    ceiling.mul_f64(fastrand::f64())
}

/// Logs failing calls: a line when the failures begin, at most one a minute while they continue, one when they are
/// over. Observers see the failure all the time.
#[derive(Debug)]
struct Silence {
    since: Option<Instant>,
    told: Option<Instant>,
    trouble: CurrentRetry,
}

impl Silence {
    fn goes_on(&mut self, url: &str, failure: &Failure, wait: Duration) {
        let now = Instant::now();
        self.since.get_or_insert(now);
        self.trouble.tell(&format!("{url}: {failure}"));
        if self.told.is_none_or(|told| now.duration_since(told) >= QUIET) {
            self.told = Some(now);
            warn!(name: "metadata-retry", url, error = %failure, next_attempt_in = %rounded(wait), "the metadata service gives no answer: asking again");
        }
    }

    /// Reports an incomplete answer.
    fn is_incomplete(&mut self, missing: &str, wait: Duration) {
        let now = Instant::now();
        self.since.get_or_insert(now);
        self.trouble.tell(missing);
        if self.told.is_none_or(|told| now.duration_since(told) >= QUIET) {
            self.told = Some(now);
            warn!(name: "metadata-retry", error = %missing, next_attempt_in = %rounded(wait), "the metadata service answers with a part only: asking again");
        }
    }

    /// Reports that an incomplete answer was accepted.
    fn stays_incomplete(&mut self, missing: &str) {
        if let Some(since) = self.since.take() {
            self.told = None;
            self.trouble.is_over();
            warn!(error = %missing, after = %rounded(since.elapsed()), "the metadata service still answers with a part only: no longer asked");
        }
    }

    fn over(&mut self) {
        if let Some(since) = self.since.take() {
            self.told = None;
            self.trouble.is_over();
            info!(name: "metadata-recovered", after = %rounded(since.elapsed()), "the metadata service answers");
        }
    }
}

impl Drop for Silence {
    /// Also ends the report if the caller stops waiting.
    fn drop(&mut self) {
        if self.since.is_some() {
            self.trouble.is_over();
        }
    }
}

/// Rounds to milliseconds.
fn rounded(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute_and_vary() {
        for (attempt, longest) in [(0, 0.5), (1, 1.0), (4, 8.0), (6, 30.0), (u32::MAX, 30.0)] {
            let pauses: Vec<f64> = (0..200).map(|_| pause(attempt).as_secs_f64()).collect();
            assert!(pauses.iter().all(|&pause| pause <= longest), "{attempt}");
            assert!(pauses.iter().any(|&pause| pause > longest / 2.0), "{attempt}");
            assert!(pauses.iter().any(|&pause| pause < longest / 2.0), "{attempt}");
        }
    }
}
