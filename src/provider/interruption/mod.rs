//! The clouds' notices that the worker's machine will end or restart. One file for each cloud.
//!
//! [`Watcher::next`] polls silently, and returns each notice once. It makes no decisions, and does not know the worker.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::metadata::{Failure, MetadataOrigins, SOON, Service};
use super::spot::{INSTANCE_ACTION, Spot};
use super::{ProviderError, google::PREEMPTED};
use crate::config::ProviderConfig;
use crate::run_spec::WorkerIdentity;

mod aws;
pub mod azure;
mod google;

/// The kind of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The machine ends or restarts soon.
    Interruption,
    /// The machine ends or restarts late enough for its tasks to finish.
    Maintenance,
    /// The machine will probably be interrupted soon: a good time to leave it.
    Rebalance,
}

/// A cloud's notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The source: `EC2 spot`, `Azure scheduled event`, `GCE preemption`.
    pub source: &'static str,
    /// The action, in the cloud's own word: `terminate`, `Preempt`.
    pub action: String,
    /// The time of the action, if the cloud gives it.
    pub deadline: Option<Timestamp>,
    /// The time from the notice to the action, if the cloud promises that instead of a time.
    pub time_left: Option<Duration>,
    /// True if the machine does not come back.
    pub ends: bool,
    pub kind: Kind,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.action)?;
        match self.deadline {
            Some(deadline) => write!(f, " at {deadline}"),
            None => Ok(()),
        }
    }
}

/// Watches one machine's cloud.
pub struct Watcher(Cloud);

enum Cloud {
    Aws(aws::Watcher),
    Azure(azure::Watcher),
    Google(google::Watcher),
}

/// The watcher for this provider; `None`: its machines are not interrupted. Makes no request until it is polled,
/// because Azure's first answer can take two minutes.
pub fn watcher(
    config: &ProviderConfig,
    origins: &MetadataOrigins,
    identity: &WorkerIdentity,
) -> Result<Option<Watcher>, ProviderError> {
    let cloud = match config {
        ProviderConfig::Standalone(_) | ProviderConfig::Static(_) => return Ok(None),
        ProviderConfig::Aws(config) => {
            Cloud::Aws(aws::Watcher::new(origins, false, config.drain_on_rebalance)?)
        }
        ProviderConfig::AwsProvisioner(_) => Cloud::Aws(aws::Watcher::new(origins, true, false)?),
        ProviderConfig::Azure(config) => {
            Cloud::Azure(azure::Watcher::new(origins, &identity.worker_id, config.acknowledge_events)?)
        }
        ProviderConfig::Google(_) => Cloud::Google(google::Watcher::new(origins)?),
    };
    Ok(Some(Watcher(cloud)))
}

/// Asks the cloud once whether it is taking this machine away. Used when the host goes down before a notice arrived. An
/// error counts as no.
pub async fn is_taken_away(
    config: &ProviderConfig,
    origins: &MetadataOrigins,
    identity: &WorkerIdentity,
) -> bool {
    let said = async |service: Result<Service, ProviderError>, path: &str| {
        let text = service.ok()?.get(path, SOON).await.ok()?.text;
        Some(text)
    };
    let answer = match config {
        ProviderConfig::Standalone(_) | ProviderConfig::Static(_) => None,
        ProviderConfig::Google(_) => {
            said(Service::gce(origins), PREEMPTED).await.map(|text| text.trim() == "TRUE")
        }
        ProviderConfig::Aws(_) | ProviderConfig::AwsProvisioner(_) => {
            let legacy = matches!(config, ProviderConfig::AwsProvisioner(_));
            let text = said(Service::ec2(origins, legacy), INSTANCE_ACTION).await;
            text.and_then(|text| Spot::from_instance_action(&text)).map(|spot| spot.ends())
        }
        ProviderConfig::Azure(_) => said(Service::azure(origins), azure::EVENTS).await.map(|text| {
            let mut events = azure::Events::new(&identity.worker_id);
            let read = events.read(&text).is_ok();
            read && std::iter::from_fn(|| events.next_notice()).any(|notice| notice.ends)
        }),
    };
    answer.unwrap_or(false)
}

impl Watcher {
    /// Waits for the next notice, and retries after failures without a limit. Cancel-safe: a notice is only consumed
    /// when it is returned.
    pub async fn next(&mut self) -> Notice {
        match &mut self.0 {
            Cloud::Aws(watcher) => watcher.next().await,
            Cloud::Azure(watcher) => watcher.next().await,
            Cloud::Google(watcher) => watcher.next().await,
        }
    }

    /// The cloud's name.
    pub fn cloud(&self) -> &'static str {
        match self.0 {
            Cloud::Aws(_) => "EC2",
            Cloud::Azure(_) => "Azure",
            Cloud::Google(_) => "GCE",
        }
    }

    /// Sets a callback for the result of each poll.
    pub fn set_hears(&mut self, hears: Hears) {
        match &mut self.0 {
            Cloud::Aws(watcher) => watcher.failing.hears = Some(hears),
            Cloud::Azure(watcher) => watcher.failing.hears = Some(hears),
            Cloud::Google(watcher) => watcher.set_hears(hears),
        }
    }

    /// Tells the cloud, after the worker is gone, that it may interrupt the machine now. Does so only if the runner
    /// configuration enables it, the cloud supports it (Azure), and the event affects no other machine.
    pub async fn acknowledge(&mut self) {
        if let Cloud::Azure(watcher) = &mut self.0 {
            watcher.acknowledge().await;
        }
    }
}

/// A callback for the result of each poll.
pub type Hears = Box<dyn Fn(Result<(), String>) + Send + Sync>;

/// Tracks failing polls: logs a warning at the first failure, and a line when no poll fails any more.
#[derive(Default)]
struct Failing {
    paths: BTreeSet<&'static str>,
    hears: Option<Hears>,
}

impl Failing {
    fn failed(&mut self, path: &'static str, url: &str, failure: &Failure) {
        if self.paths.is_empty() {
            warn!(name: "interruption-watch-failed", url, error = %failure, "interruptions cannot be watched for: the metadata service fails; asking on");
        }
        self.paths.insert(path);
        self.tell(Err(failure.to_string()));
    }

    fn answered(&mut self, path: &'static str) {
        if self.paths.remove(path) && self.paths.is_empty() {
            info!(name: "interruption-watch-recovered", "interruptions are watched for again");
        }
        // While another path fails, the recovery is not reported.
        if self.paths.is_empty() {
            self.tell(Ok(()));
        }
    }

    fn tell(&self, result: Result<(), String>) {
        if let Some(hears) = &self.hears {
            hears(result);
        }
    }
}
