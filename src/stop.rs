//! The stop request: the strength and cause with which the runner itself has been asked to end.
//!
//! It is a level, not an event. It only increases, nothing consumes it, and every phase of the runner's life watches
//! the same value: startup, a hold, the supervisor, deregistration, the last reports, a host command that hangs. A
//! request that arrives between two waits is seen by the second one.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::event::{StopRequest, Strength};

/// The time that an unfinished step gets once a stop has been requested: the answer to a request that cannot be
/// repeated, a deregistration, a host command.
pub const GRACE: Duration = Duration::from_secs(5);

/// Two signals within this time count as one, because wrappers, process groups and terminals deliver the same Ctrl-C
/// twice.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// The runner's stop request. Clones share one value.
#[derive(Debug, Clone)]
pub struct StopSignal {
    level: watch::Sender<Option<StopRequest>>,
    /// The time of the first SIGTERM or SIGINT.
    first: Arc<OnceLock<Instant>>,
}

impl Default for StopSignal {
    fn default() -> Self {
        Self { level: watch::Sender::new(None), first: Arc::default() }
    }
}

impl StopSignal {
    /// Adds the stop request of an operator's signal, and returns its strength: the second signal kills.
    pub fn signalled(&self, now: Instant) -> Strength {
        let first = *self.first.get_or_init(|| now);
        let same = now.saturating_duration_since(first) < SAME_SIGNAL;
        let strength = if same { Strength::Stop } else { Strength::Kill };
        self.request(StopRequest::operator(strength));
        strength
    }

    /// Adds a request. One that is weaker than the current level changes nothing.
    pub fn request(&self, request: StopRequest) {
        self.level.send_if_modified(|level| {
            let joined = level.map_or(request, |earlier| earlier.join(request));
            level.replace(joined) != Some(joined)
        });
    }

    /// The union of all requests so far.
    pub fn current(&self) -> Option<StopRequest> {
        *self.level.borrow()
    }

    /// Waits for any request.
    pub async fn requested(&self) -> StopRequest {
        self.when(|_| true).await
    }

    /// Waits for a request of at least this strength.
    pub async fn at_least(&self, strength: Strength) -> StopRequest {
        self.when(|request| request.strength >= strength).await
    }

    /// Waits until the request differs from `seen`.
    pub async fn beyond(&self, seen: Option<StopRequest>) -> StopRequest {
        self.when(|request| Some(request) != seen).await
    }

    /// Awaits `step`, but for at most [`GRACE`] once a stop has been requested, and no longer once a kill has. `None`:
    /// the step was given up. A drain lets it finish.
    pub async fn bounded<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        let given_up = async {
            self.at_least(Strength::Stop).await;
            // A timeout ends the step like a kill.
            let _ = tokio::time::timeout(GRACE, self.at_least(Strength::Kill)).await;
        };
        tokio::select! {
            biased;
            done = step => Some(done),
            () = given_up => None,
        }
    }

    /// Awaits a step that has its own time limit, unless a kill is requested.
    pub async fn unless_killed<T>(&self, step: impl Future<Output = T>) {
        tokio::select! {
            biased;
            _ = step => {}
            _ = self.at_least(Strength::Kill) => {}
        }
    }

    /// Awaits a step that may be interrupted, until anything is requested.
    pub async fn unless_requested<T>(&self, step: impl Future<Output = T>) {
        tokio::select! {
            biased;
            _ = self.requested() => {}
            _ = step => {}
        }
    }

    async fn when(&self, matches: impl Fn(StopRequest) -> bool) -> StopRequest {
        let mut level = self.level.subscribe();
        match level.wait_for(|level| level.is_some_and(&matches)).await.map(|level| *level) {
            Ok(Some(request)) => request,
            // Not reached: `self` keeps the channel open, and `None` does not match.
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: StopRequest = StopRequest::operator(Strength::Drain);
    const STOP: StopRequest = StopRequest::operator(Strength::Stop);
    const KILL: StopRequest = StopRequest::operator(Strength::Kill);

    #[tokio::test]
    async fn a_request_is_seen_by_everyone_who_asks_and_as_often_as_they_ask() {
        let signal = StopSignal::default();
        assert_eq!(signal.current(), None);
        signal.clone().request(STOP);
        for _ in 0..3 {
            assert_eq!(signal.requested().await, STOP);
            assert_eq!(signal.clone().at_least(Strength::Drain).await, STOP);
        }
    }

    #[test]
    fn the_level_only_grows_and_the_cause_that_counts_most_stays() {
        let signal = StopSignal::default();
        let fault = StopRequest::RUNNER_FAULT;
        for (request, expected) in [
            (fault, fault),
            (STOP, STOP),
            (DRAIN, STOP),
            (StopRequest::DRAIN_ONCE, StopRequest { hold: true, ..STOP }),
            (fault, StopRequest { hold: true, ..STOP }),
            (KILL, StopRequest { hold: true, ..KILL }),
            (STOP, StopRequest { hold: true, ..KILL }),
        ] {
            signal.request(request);
            assert_eq!(signal.current(), Some(expected));
        }
    }

    #[test]
    fn a_second_signal_within_a_second_is_the_same_one_also_where_it_comes_another_way() {
        let (signal, begin) = (StopSignal::default(), Instant::now());
        for (millis, strength) in
            [(0, Strength::Stop), (999, Strength::Stop), (1000, Strength::Kill), (1001, Strength::Kill)]
        {
            let now = begin + Duration::from_millis(millis);
            assert_eq!(signal.clone().signalled(now), strength);
            assert_eq!(signal.current(), Some(StopRequest::operator(strength)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_gets_its_grace_after_a_stop_nothing_after_a_kill_and_all_it_needs_in_a_drain() {
        let signal = StopSignal::default();
        let begin = tokio::time::Instant::now();
        let needs = |seconds| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            seconds
        };
        signal.request(DRAIN);
        assert_eq!(signal.bounded(needs(1000)).await, Some(1000));
        signal.request(STOP);
        assert_eq!(signal.bounded(needs(4)).await, Some(4));
        assert_eq!(signal.bounded(needs(1000)).await, None);
        assert_eq!(begin.elapsed(), Duration::from_secs(1000 + 4) + GRACE);
        signal.request(KILL);
        assert_eq!(signal.bounded(needs(1000)).await, None);
        assert_eq!(signal.bounded(std::future::ready(7)).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kill_ends_a_wait_that_a_stop_has_bounded_already() {
        let signal = StopSignal::default();
        signal.request(STOP);
        let step = signal.bounded(std::future::pending::<()>());
        let begin = tokio::time::Instant::now();
        let kill = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            signal.request(KILL);
        };
        assert_eq!(tokio::join!(step, kill), (None, ()));
        assert_eq!(begin.elapsed(), Duration::from_secs(1));
    }
}
