//! Watches for a new deployment. If the worker pool has one, or wants this worker to end, the worker is drained.
//!
//! Only an explicit answer has an effect: while a pool cannot be read, or is empty, its workers continue.
//!
//! * `definition.rs`: compares the run's data with the pool's definition.
//! * `sources.rs`: makes the calls, and handles those that cannot be made.

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

/// The maximum fraction by which an interval varies.
const JITTER: f64 = 0.2;

/// Returns true if new deployments can be detected for a worker of this provider: worker-manager must know the worker.
pub fn is_possible(provider: &ProviderConfig) -> bool {
    !matches!(provider, ProviderConfig::Standalone(_) | ProviderConfig::AwsProvisioner(_))
}

/// The parameters for watching the deployment of one run.
pub struct Watch {
    /// Calls worker-manager for this worker.
    pub registrar: Registrar,
    pub config: Arc<RunnerConfig>,
    /// The deployment from which the run was made.
    pub deployed: Deployed,
    pub clock: Arc<dyn Clock>,
    /// The latest launch, which contains the latest credentials.
    pub launches: watch::Receiver<LaunchSpec>,
    /// Publishes the watched values and the result of each check.
    pub publisher: StatusPublisher,
    /// Changes when a check is requested (SIGHUP).
    pub checks: watch::Receiver<()>,
    /// Sends events to the supervisor.
    pub events: mpsc::Sender<Event>,
}

impl Watch {
    /// Checks until the supervisor is gone. The first check is at a random point of the first interval, so that a fleet
    /// that boots together does not call together; that also applies to a start from the cache. While there is a new
    /// deployment, each check requests a drain.
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

/// Checks for reasons to drain.
trait Look {
    /// The checked sources. If empty, there are none, and there will be none.
    fn names(&self) -> Vec<&'static str>;

    /// Checks once.
    fn look(&mut self) -> impl Future<Output = Vec<Verdict>> + Send;

    /// The reason why the last check was incomplete.
    fn trouble(&self) -> Option<String>;
}

/// Repeats checks.
struct Looks<L> {
    look: L,
    settings: config::Deployment,
    clock: Arc<dyn Clock>,
    publisher: StatusPublisher,
    checks: watch::Receiver<()>,
    events: mpsc::Sender<Event>,
    /// The result of the last check.
    told: Vec<Verdict>,
    /// The time of the last check.
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
            // The interval begins after the check, so that checks never pile up.
            wait = next_wait(self.settings.interval, &mut chance);
        }
    }

    /// Waits for the next check, or for a request.
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

    /// Checks once. Returns true while the supervisor exists.
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

    /// Describes the result of the last check.
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

/// Waits for a request.
async fn asked(checks: &mut watch::Receiver<()>) {
    if checks.changed().await.is_err() {
        // Every sender is gone.
        std::future::pending::<()>().await;
    }
}

/// A random point of the first interval.
fn first_wait(interval: Duration, chance: &mut fastrand::Rng) -> Duration {
    interval.mul_f64(chance.f64())
}

/// The interval with jitter.
fn next_wait(interval: Duration, chance: &mut fastrand::Rng) -> Duration {
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance.f64())
}

#[cfg(test)]
mod tests;
