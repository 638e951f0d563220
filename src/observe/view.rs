//! All that observers look at, in one place.

use tokio::sync::watch;

use crate::output::Counters;
use crate::pulse::Pulse;
use crate::standing::{Announcer, Standing};
use crate::tally::Tally;
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
            output,
            provider,
            implementation,
        }
    }

    /// Waits until the runner stands elsewhere, or the log has noted a trouble; `false`: nothing more will come.
    pub async fn changed(&mut self) -> bool {
        let changed = tokio::select! {
            changed = self.standing.changed() => changed,
            changed = self.troubles.changed() => changed,
        };
        changed.is_ok()
    }
}
