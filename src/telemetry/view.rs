//! The data for all observers, in one place.

use std::sync::Arc;

use tokio::sync::watch;

use crate::hold::{Held, Hold};
use crate::output::OutputCounters;
use crate::redact::Secrets;
use crate::telemetry::counters::Counters;
use crate::telemetry::current_retry::CurrentRetry;
use crate::telemetry::liveness::Liveness;
use crate::telemetry::recent_warnings::{Known, RecentWarnings};
use crate::telemetry::status_board::{StatusBoard, StatusPublisher};

#[derive(Debug, Clone)]
pub struct View {
    /// The runner's current state.
    pub board: watch::Receiver<StatusBoard>,
    pub counters: Counters,
    /// The liveness of the supervisor's loop.
    pub liveness: Liveness,
    /// The recent warnings and errors of the runner's own log.
    pub recent_warnings: watch::Receiver<Known>,
    /// The operation that the runner currently retries, and the reason.
    pub trouble: watch::Receiver<Option<Arc<str>>>,
    /// The hold of this host.
    pub hold: watch::Receiver<Held>,
    /// The secrets that are masked in it.
    pub secrets: Secrets,
    /// The counters of the output thread.
    pub output: OutputCounters,
    /// `provider.providerType`.
    pub provider: &'static str,
    /// `worker.implementation`.
    pub implementation: &'static str,
}

impl View {
    /// Creates a view of the runner whose status `publisher` publishes.
    pub fn new(
        publisher: &StatusPublisher,
        recent_warnings: &RecentWarnings,
        output: OutputCounters,
        provider: &'static str,
        implementation: &'static str,
    ) -> Self {
        Self {
            board: publisher.observe(),
            counters: publisher.counters().clone(),
            liveness: publisher.liveness().clone(),
            recent_warnings: recent_warnings.observe(),
            trouble: CurrentRetry::default().observe(),
            hold: watch::channel(None).1,
            secrets: Secrets::default(),
            output,
            provider,
            implementation,
        }
    }

    /// Adds the current retry, with these secrets masked.
    #[must_use]
    pub fn with_trouble(self, trouble: &CurrentRetry, secrets: &Secrets) -> Self {
        Self { trouble: trouble.observe(), secrets: secrets.clone(), ..self }
    }

    /// Also of this hold.
    #[must_use]
    pub fn with_hold(self, hold: &Hold) -> Self {
        Self { hold: hold.observe(), ..self }
    }

    /// Waits until the runner stands elsewhere, tries something else again, is held or resumed, or the log has noted a trouble; `false`: nothing more will come.
    pub async fn changed(&mut self) -> bool {
        let changed = tokio::select! {
            changed = self.board.changed() => changed,
            changed = self.recent_warnings.changed() => changed,
            Ok(()) = self.trouble.changed() => Ok(()),
            Ok(()) = self.hold.changed() => Ok(()),
        };
        changed.is_ok()
    }
}
