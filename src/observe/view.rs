//! All that observers look at, in one place.

use std::sync::Arc;

use tokio::sync::watch;

use crate::output::Counters;
use crate::pulse::Pulse;
use crate::redact::Secrets;
use crate::standing::{Announcer, Standing};
use crate::tally::Tally;
use crate::trouble::Trouble;
use crate::troubles::{Known, Troubles};

/// A view of the runner.
#[derive(Debug, Clone)]
pub struct View {
    /// Where it stands.
    pub standing: watch::Receiver<Standing>,
    /// What it has counted.
    pub tally: Tally,
    /// The pulse of the supervisor's loop.
    pub pulse: Pulse,
    /// What the log has noted of troubles.
    pub troubles: watch::Receiver<Known>,
    /// What the runner tries again at the moment, and why.
    pub trouble: watch::Receiver<Option<Arc<str>>>,
    /// What must not be shown of it.
    pub secrets: Secrets,
    /// What has gone through the output thread.
    pub output: Counters,
    /// `provider.providerType`.
    pub provider: &'static str,
    /// `worker.implementation`.
    pub implementation: &'static str,
}

impl View {
    /// Of the runner that announces with `announcer`.
    pub fn new(
        announcer: &Announcer,
        troubles: &Troubles,
        output: Counters,
        provider: &'static str,
        implementation: &'static str,
    ) -> Self {
        Self {
            standing: announcer.observe(),
            tally: announcer.tally().clone(),
            pulse: announcer.pulse().clone(),
            troubles: troubles.observe(),
            trouble: Trouble::default().observe(),
            secrets: Secrets::default(),
            output,
            provider,
            implementation,
        }
    }

    /// Also of what is told to `trouble`, without these secrets.
    #[must_use]
    pub fn with_trouble(self, trouble: &Trouble, secrets: &Secrets) -> Self {
        Self { trouble: trouble.observe(), secrets: secrets.clone(), ..self }
    }

    /// Waits until the runner stands elsewhere, tries something else again, or the log has noted a trouble; `false`: nothing more will come.
    pub async fn changed(&mut self) -> bool {
        let changed = tokio::select! {
            changed = self.standing.changed() => changed,
            changed = self.troubles.changed() => changed,
            Ok(()) = self.trouble.changed() => Ok(()),
        };
        changed.is_ok()
    }
}
