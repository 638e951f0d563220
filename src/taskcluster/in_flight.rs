//! Requests in flight: Taskcluster may execute a request that was sent, and its answer may be the only one.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::telemetry::counters::{Counters, Label};

/// Counts the requests of all clients that share it.
#[derive(Debug, Clone)]
pub struct InFlight(Arc<watch::Sender<usize>>);

/// A request in flight, until this is dropped.
#[derive(Debug)]
pub(super) struct Sent<'a>(&'a InFlight);

impl Default for InFlight {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl InFlight {
    /// Returns true if any request is in flight.
    pub fn any(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Waits until no request is in flight.
    pub async fn none(&self) {
        // Fails only without a sender, and the sender is `self`.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }

    pub(super) fn sent(&self) -> Sent<'_> {
        self.0.send_modify(|count| *count += 1);
        Sent(self)
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// A request that is counted when it ends, even if its future is dropped.
pub(super) struct Counted<'a> {
    pub(super) counters: &'a Counters,
    pub(super) call: &'static str,
    pub(super) began: Instant,
    /// `None`: no answer.
    pub(super) status: Option<u16>,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let status = self.status.map_or(Label::from("none"), |status| status.to_string().into());
        self.counters.requests.count([self.call.into(), status]);
        self.counters.request_times.took(self.call, self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_counted_until_they_are_over() {
        let in_flight = InFlight::default();
        assert!(!in_flight.any());
        in_flight.none().await;
        let shared = in_flight.clone();
        let (one, other) = (shared.sent(), shared.sent());
        drop(one);
        assert!(in_flight.any());
        let waiting = tokio::spawn({
            let in_flight = in_flight.clone();
            async move { in_flight.none().await }
        });
        drop(other);
        waiting.await.unwrap();
    }
}
