//! What a start would meet outside: the provider, the way to Taskcluster, its clock, the worker pool.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::{Outcome, Step, Surroundings};
use crate::config::{ProviderConfig, RunnerConfig};
use crate::credentials::Credentials;
use crate::error_chain::ErrorChain;
use crate::provider::{self, Identified, Patience, Proof};
use crate::run_spec::cache::{CachedRun, Stage};
use crate::startup::PrepareError;
use crate::taskcluster::{Client, Effort, InFlight, Pace};
use crate::telemetry::counters::Counters;

/// How long the provider is asked, and how long one step of the way may take.
const PROVIDER: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_secs(5);

/// A clock that is further off is told of, in seconds. Beyond 15 minutes calls are signed with Taskcluster's time.
const CLOCK_DOUBTFUL: i64 = 60;

/// All steps outside.
pub(super) async fn look(
    config: &RunnerConfig,
    surroundings: &Surroundings,
    cached: Option<&CachedRun>,
) -> Vec<Step> {
    let need = Need::of(config, cached, surroundings.clock.now());
    let mut steps = Vec::new();
    let identified = identify(config, surroundings, &mut steps).await;
    if !need.provider {
        steps = steps.into_iter().map(Step::at_most_doubtful).collect();
    }
    if let Some(Proof::Credentials(credentials)) = identified.as_ref().map(|identified| &identified.proof) {
        steps.extend(expired(credentials, surroundings.clock.now()));
    }
    let root_url = identified.as_ref().map(|identified| identified.root_url.clone());
    let Some(root_url) = root_url.or_else(|| cached.map(|cached| cached.run.root_url.clone())) else {
        steps.push(Step::new("Taskcluster", Outcome::Skipped, "nobody has said where it is"));
        return steps;
    };
    let counters = Counters::default();
    match Client::new(&root_url, &surroundings.proxies, surroundings.clock.clone()) {
        Ok(client) => {
            let client = client.counting(InFlight::default(), counters.clone(), Pace::default());
            let mut way = Vec::new();
            let answers = the_way(&client, &mut way).await;
            steps
                .extend(way.into_iter().map(|step| if need.answer { step } else { step.at_most_doubtful() }));
            if answers {
                steps.push(clock(&counters));
                if let Some(identified) = identified {
                    let step = pool(&client, &identified).await;
                    steps.push(if need.pool { step } else { step.at_most_doubtful() });
                }
            }
        }
        Err(cause) => steps.push(Step::new("Taskcluster", Outcome::Failed, cause.to_string())),
    }
    steps
}

/// What a start cannot do without. What it does not need may yet be needed later, or by the worker.
struct Need {
    /// What the provider says.
    provider: bool,
    /// That Taskcluster answers.
    answer: bool,
    /// The worker pool: to be registered in.
    pool: bool,
}

impl Need {
    fn of(config: &RunnerConfig, cached: Option<&CachedRun>, now: Timestamp) -> Self {
        let complete = cached.filter(|cached| cached.stage == Stage::Complete);
        match &config.provider {
            ProviderConfig::Standalone(_) => {
                Self { provider: true, answer: config.get_secrets && complete.is_none(), pool: false }
            }
            // It registers each time, and falls back on the cache where nobody answers.
            ProviderConfig::Static(_) => {
                let falls_back = complete.is_some_and(|cached| cached.run.credentials.usable(now));
                Self { provider: true, answer: !falls_back, pool: true }
            }
            ProviderConfig::Aws(_)
            | ProviderConfig::Azure(_)
            | ProviderConfig::Google(_)
            | ProviderConfig::AwsProvisioner(_)
                if cached.is_some() =>
            {
                Self { provider: false, answer: config.get_secrets && complete.is_none(), pool: false }
            }
            // The legacy provisioner's pools are none of worker-manager's.
            ProviderConfig::AwsProvisioner(_) => Self { provider: true, answer: true, pool: false },
            ProviderConfig::Aws(_) | ProviderConfig::Azure(_) | ProviderConfig::Google(_) => {
                Self { provider: true, answer: true, pool: true }
            }
        }
    }
}

/// Credentials of the runner configuration that are over: no start goes on with them.
fn expired(credentials: &Credentials, now: Timestamp) -> Option<Step> {
    // As at the start: those that are about to expire are used up to their last quarter.
    let expires = credentials.expires.filter(|expires| *expires <= now)?;
    let why = PrepareError::StandaloneExpired(expires).to_string();
    Some(Step::new("credentials", Outcome::Failed, why))
}

async fn identify(
    config: &RunnerConfig,
    surroundings: &Surroundings,
    steps: &mut Vec<Step>,
) -> Option<Identified> {
    let implementation = config.worker.implementation.name();
    let patience = Patience { time: Some(PROVIDER), ..Patience::default() };
    let asked = provider::identify(&config.provider, &surroundings.metadata, implementation, patience).await;
    match asked {
        Ok(identified) => {
            let identity = &identified.identity;
            let found = format!(
                "worker {}/{} of the pool {}, at {}",
                identity.worker_group, identity.worker_id, identity.worker_pool_id, identified.root_url
            );
            steps.push(Step::new("provider", Outcome::Ok, found));
            Some(identified)
        }
        Err(cause) => {
            steps.push(Step::new("provider", Outcome::Failed, ErrorChain(&cause).to_string()));
            None
        }
    }
}

/// Name, connection, answer; whether there was one.
async fn the_way(client: &Client, steps: &mut Vec<Step>) -> bool {
    if let Some((host, port)) = client.host() {
        let addresses: Vec<SocketAddr> = match timeout(STEP, lookup_host((host.as_str(), port))).await {
            Ok(Ok(found)) => found.collect(),
            Ok(Err(cause)) => return broken(steps, "name", format!("{host}: {cause}")),
            Err(_) => return broken(steps, "name", format!("{host}: no answer within {} s", STEP.as_secs())),
        };
        let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        steps.push(Step::new("name", Outcome::Ok, format!("{host} is {}", shown.join(", "))));
        match timeout(STEP, TcpStream::connect(addresses.as_slice())).await {
            Ok(Ok(_)) => steps.push(Step::new("connection", Outcome::Ok, format!("{host} port {port}"))),
            Ok(Err(cause)) => return broken(steps, "connection", format!("{host} port {port}: {cause}")),
            Err(_) => {
                return broken(
                    steps,
                    "connection",
                    format!("{host} port {port}: none within {} s", STEP.as_secs()),
                );
            }
        }
    } else {
        steps.push(Step::new("connection", Outcome::Ok, "by way of the proxy that the environment names"));
    }
    match client.ping(Effort::Once).await {
        Ok(()) => {
            steps.push(Step::new(
                "ping",
                Outcome::Ok,
                format!("worker-manager at {} answers", client.root_url()),
            ));
            true
        }
        Err(cause) => broken(steps, "ping", cause.to_string()),
    }
}

fn broken(steps: &mut Vec<Step>, what: &'static str, why: String) -> bool {
    steps.push(Step::new(what, Outcome::Failed, why));
    false
}

fn clock(counters: &Counters) -> Step {
    match counters.clock_offset() {
        None => Step::new("clock", Outcome::Warning, "Taskcluster's answer does not tell the time"),
        Some(offset) if offset.abs() <= CLOCK_DOUBTFUL => {
            Step::new("clock", Outcome::Ok, format!("{} s from Taskcluster's at most", offset.abs().max(1)))
        }
        Some(offset) => {
            let way = if offset > 0 { "behind" } else { "ahead of" };
            let off = humantime::format_duration(Duration::from_secs(offset.unsigned_abs()));
            Step::new("clock", Outcome::Warning, format!("{off} {way} Taskcluster's: set the host's clock"))
        }
    }
}

/// With the credentials that are at hand, else as anybody.
async fn pool(client: &Client, identified: &Identified) -> Step {
    let pool_id = identified.identity.worker_pool_id.as_str();
    let answer = match &identified.proof {
        Proof::Credentials(credentials) => client.worker_pool(credentials, pool_id, Effort::Once).await,
        _ => client.public_worker_pool(pool_id, Effort::Once).await,
    };
    let Err(cause) = answer else {
        return Step::new("worker pool", Outcome::Ok, format!("{pool_id} is there"));
    };
    if cause.status() == Some(403) {
        let why = match &identified.proof {
            Proof::Credentials(_) => "nothing is registered",
            _ => "registering needs none",
        };
        let found = format!("{pool_id} may not be read without more scopes, which is no trouble: {why}");
        return Step::new("worker pool", Outcome::Ok, found);
    }
    Step::new("worker pool", Outcome::Failed, cause.to_string())
}
