//! The sibling tasks of a run, ready to be spawned.

use std::sync::Arc;

use tokio::sync::{mpsc, watch as channel};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Lifecycle, TaskGroup};
use crate::config::RunnerConfig;
use crate::event::Event;
use crate::provider::interruption;
use crate::registration::Registrar;
use crate::registration::deregister::Current;
use crate::taskcluster::CALL_EVERY;
use crate::watch::credentials::Renewal;
use crate::watch::deployment::{self, Deployed};
use crate::watch::expiry;
use crate::watch::interruption::Interruptions;
use crate::worker::LaunchSpec;

impl Lifecycle<'_> {
    pub(super) fn renewal(
        &self,
        registrar: Registrar,
        current: &Current,
        launches: channel::Sender<LaunchSpec>,
        events: &mpsc::Sender<Event>,
    ) -> Renewal {
        Renewal {
            registrar,
            may_register_again: !self.config.provider.is_dynamic(),
            current: current.clone(),
            settings: self.config.worker.clone(),
            cache_writer: self.preparer.cache_writer.clone(),
            clock: self.preparer.clock.clone(),
            secrets: self.preparer.secrets.clone(),
            launches,
            publisher: self.publisher.clone(),
            events: events.clone(),
        }
    }

    pub(super) fn deployment(
        &self,
        registrar: Registrar,
        deployed: Deployed,
        launches: channel::Receiver<LaunchSpec>,
        events: &mpsc::Sender<Event>,
    ) -> deployment::Watch {
        let mut config = RunnerConfig::clone(&self.config);
        // A lower limit, independent of the configuration.
        config.deployment.interval = config.deployment.interval.max(CALL_EVERY);
        deployment::Watch {
            registrar,
            config: Arc::new(config),
            deployed,
            clock: self.preparer.clock.clone(),
            launches,
            publisher: self.publisher.clone(),
            checks: self.checks.subscribe(),
            events: events.clone(),
        }
    }

    pub(super) fn watch_expiry(
        &self,
        expires: jiff::Timestamp,
        tasks: &TaskGroup,
        events: &mpsc::Sender<Event>,
    ) {
        let clock = self.preparer.clock.clone();
        // Expired credentials have been refused earlier.
        let Some(schedule) = expiry::Schedule::new(clock.now(), expires) else { return };
        warn!(name: "credentials-not-renewable", %expires, drain = %schedule.drain, stop = %schedule.stop, "the credentials expire, and this provider cannot renew them");
        drop(tasks.spawn("credentials", expiry::watch(schedule, clock, events.clone())));
    }

    pub(super) fn interruptions(
        &self,
        watcher: interruption::Watcher,
        gone: &CancellationToken,
        events: &mpsc::Sender<Event>,
    ) -> Interruptions {
        Interruptions {
            watcher,
            finish_tasks_if_over: self
                .config
                .provider
                .cloud()
                .and_then(|cloud| cloud.finish_tasks_if_deadline_over),
            clock: self.preparer.clock.clone(),
            publisher: self.publisher.clone(),
            events: events.clone(),
            gone: gone.clone(),
        }
    }
}
