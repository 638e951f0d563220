//! Watches for a new deployment: where the worker pool has one, or wants this worker no more, the worker is drained.
//!
//! Nothing but an answer that says so has any effect: a pool that cannot be read, or that is empty, lets its workers go
//! on.
//!
//! * `definition.rs`: what the run knows, compared with the pool's definition.
//! * `sources.rs`: who is asked, and what becomes of one that cannot be.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use crate::clock::{Clock, wait_for};
use crate::config::{self, ProviderConfig, RunnerConfig};
use crate::event::{Cause, Event, Strength};
use crate::registration::Registrar;
use crate::taskcluster::CALL_EVERY;
use crate::telemetry::status_board::{DeploymentWatch, StatusPublisher};
use crate::worker::LaunchSpec;

pub mod definition;
mod sources;

pub use definition::Deployed;
use sources::{Sources, Verdict};

/// How much an interval may be longer or shorter than it is set, as a part of it.
const JITTER: f64 = 0.2;

/// Whether a worker of this provider can be told of new deployments: worker-manager must know it.
pub fn is_possible(provider: &ProviderConfig) -> bool {
    !matches!(provider, ProviderConfig::Standalone(_) | ProviderConfig::AwsProvisioner(_))
}

/// What the watch for a new deployment of one run needs.
pub struct Watch {
    /// Whom it asks, and for which worker.
    pub registrar: Registrar,
    /// The runner configuration.
    pub config: Arc<RunnerConfig>,
    /// What the run was made from.
    pub deployed: Deployed,
    /// Tells the wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// The newest launch: with the newest credentials.
    pub launches: watch::Receiver<LaunchSpec>,
    /// Whom to tell what is looked at, and what came of it.
    pub publisher: StatusPublisher,
    /// Changes when somebody wants it to look now (SIGHUP).
    pub checks: watch::Receiver<()>,
    /// The way to the supervisor.
    pub events: mpsc::Sender<Event>,
}

impl Watch {
    /// Looks until the supervisor is gone: first at a random point of the first interval, so that a fleet that boots
    /// together does not ask together; after a start from the cache, too. While there is a new deployment, each look
    /// asks for a drain.
    pub async fn watch(self) {
        let Self { registrar, config, deployed, clock, launches, publisher, checks, events } = self;
        let look = Sources::new(registrar, &config, &deployed, launches, publisher.counters().clone());
        publisher.publish_deployment(DeploymentWatch {
            sources: look.names(),
            values: deployed.values(),
            ..DeploymentWatch::default()
        });
        let settings = config.deployment.clone();
        let looks = Looks { look, settings, clock, publisher, checks, events, told: Vec::new(), last: None };
        looks.keep(fastrand::Rng::new()).await;
    }
}

/// Looks for what calls for a drain.
trait Look {
    /// What it looks at; empty: nothing, and it will not be more.
    fn names(&self) -> Vec<&'static str>;

    /// Looks once.
    fn look(&mut self) -> impl Future<Output = Vec<Verdict>> + Send;

    /// Why the last look could not see all that it looks at.
    fn trouble(&self) -> Option<String>;
}

/// One look after the other.
struct Looks<L> {
    look: L,
    settings: config::Deployment,
    clock: Arc<dyn Clock>,
    publisher: StatusPublisher,
    checks: watch::Receiver<()>,
    events: mpsc::Sender<Event>,
    /// What the last look has found.
    told: Vec<Verdict>,
    /// When it looked last.
    last: Option<Instant>,
}

impl<L: Look> Looks<L> {
    async fn keep(mut self, mut chance: fastrand::Rng) {
        let mut wait = first_wait(self.settings.interval, &mut chance);
        self.tell_what_is_looked_at();
        loop {
            self.wait(wait).await;
            if !self.once().await {
                return;
            }
            // From here: looks never pile up.
            wait = next_wait(self.settings.interval, &mut chance);
        }
    }

    /// Waits for the next look, or until somebody asks for one.
    async fn wait(&mut self, wait: Duration) {
        let polls = self.settings.poll && !self.look.names().is_empty();
        tokio::select! {
            biased;
            () = asked(&mut self.checks) => {
                if self.look.names().is_empty() {
                    info!("there is nothing that would tell this worker of a new deployment");
                }
                if let Some(last) = self.last {
                    sleep_until(last + CALL_EVERY).await;
                }
            }
            () = wait_for(wait, &*self.clock), if polls => {}
        }
    }

    /// Looks once. Whether there is still a supervisor.
    async fn once(&mut self) -> bool {
        self.last = Some(Instant::now());
        let found = self.look.look().await;
        for verdict in found.iter().filter(|verdict| !self.told.contains(verdict)) {
            verdict.tell();
        }
        self.told = found;
        self.publisher.publish_check(self.look.names(), self.result());
        if self.told.is_empty() {
            return !self.events.is_closed();
        }
        let drain = Event::Asked { strength: Strength::Drain, cause: Cause::Redeploy };
        self.events.send(drain).await.is_ok()
    }

    /// What the last look has found, in words.
    fn result(&self) -> String {
        let found: Vec<String> = self.told.iter().map(Verdict::to_string).collect();
        match self.look.trouble() {
            _ if !found.is_empty() => found.join("; "),
            Some(trouble) => format!("cannot tell: {trouble}"),
            None => "nothing new".to_owned(),
        }
    }

    fn tell_what_is_looked_at(&self) {
        let names = self.look.names().join(", ");
        if names.is_empty() {
            debug!("nothing tells this worker of new deployments");
        } else if self.settings.poll {
            let interval = humantime::format_duration(self.settings.interval).to_string();
            info!(name: "deployment-watch-started", sources = names, interval, "watching for a new deployment");
        } else {
            info!(sources = names, "looking for a new deployment at SIGHUP only");
        }
    }
}

/// Waits until somebody asks for a look.
async fn asked(checks: &mut watch::Receiver<()>) {
    if checks.changed().await.is_err() {
        // Nobody is left who could.
        std::future::pending::<()>().await;
    }
}

/// A random point of the first interval.
fn first_wait(interval: Duration, chance: &mut fastrand::Rng) -> Duration {
    interval.mul_f64(chance.f64())
}

/// The interval, with jitter.
fn next_wait(interval: Duration, chance: &mut fastrand::Rng) -> Duration {
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance.f64())
}

#[cfg(test)]
mod tests;
