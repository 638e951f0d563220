//! What a runner does not do more often than that, over all the runs that it makes.

use tokio::time::{Instant, sleep_until};

use crate::quota::ReportLimit;
use crate::taskcluster::{CALL_EVERY, Pace};

/// The limits of one runner.
#[derive(Debug, Default)]
pub struct Limits {
    /// How many error reports of the worker are sent.
    pub reports: ReportLimit,
    /// How many calls to Taskcluster are made.
    pub(super) pace: Pace,
    /// When the worker was last registered.
    registered: Option<Instant>,
}

impl Limits {
    /// Waits until the worker may register. Credentials that are worthless as soon as they are there must not make it
    /// register without end.
    pub(super) async fn next_registration(&mut self) {
        if let Some(last) = self.registered {
            sleep_until(last + CALL_EVERY).await;
        }
        self.registered = Some(Instant::now());
    }
}
