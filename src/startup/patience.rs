//! The time limit of a start.

use std::time::Duration;

use tokio::time::Instant;

use crate::taskcluster::Effort;

/// The time at which a start gives up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience(pub(super) Option<Instant>);

impl Patience {
    pub(super) fn effort(self) -> Effort {
        match self.0 {
            Some(end) => Effort::For(end.saturating_duration_since(Instant::now())),
            None => Effort::Forever,
        }
    }

    pub(super) fn left(self) -> Option<Duration> {
        self.0.map(|end| end.saturating_duration_since(Instant::now()))
    }

    pub(super) fn within(self, limit: Duration) -> Self {
        let end = Instant::now() + limit;
        Self(Some(self.0.map_or(end, |earlier| earlier.min(end))))
    }
}
