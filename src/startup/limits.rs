//! Rate limits of a runner, across all its runs.

use tokio::time::{Instant, sleep_until};

use crate::quota::ReportLimit;
use crate::taskcluster::{CALL_EVERY, Pace};

#[derive(Debug, Default)]
pub struct Limits {
    /// The limit for the worker's error reports.
    pub reports: ReportLimit,
    /// The limit for calls to Taskcluster.
    pub(super) pace: Pace,
    /// The time of the last registration.
    registered: Option<Instant>,
}

impl Limits {
    /// Waits until the worker may register. Credentials that expire at once must not make it register in a tight loop.
    pub(super) async fn next_registration(&mut self) {
        if let Some(last) = self.registered {
            sleep_until(last + CALL_EVERY).await;
        }
        self.registered = Some(Instant::now());
    }
}
