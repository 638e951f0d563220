//! The conditions of a start beyond this host: the provider, the connection to Taskcluster, its clock, the worker pool.

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
use crate::startup::outside::Layers;
use crate::taskcluster::{Client, Effort, InFlight, Pace, WorkerName};
use crate::telemetry::counters::Counters;

/// Time limits for querying the provider, and for each step of the connection.
const PROVIDER: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_secs(5);

/// A larger clock offset is reported, in seconds. Beyond 15 minutes, calls are signed with Taskcluster's time.
const CLOCK_DOUBTFUL: i64 = 60;

/// Checks all steps beyond this host.
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
                    steps.extend(registration(config, &client, &identified, cached).await);
                    steps.extend(access(config, &client, &identified, cached).await);
                }
            }
        }
        Err(cause) => steps.push(Step::new("Taskcluster", Outcome::Failed, cause.to_string())),
    }
    steps
}

/// The steps on which a start depends. Others may still be needed later, or by the worker.
struct Need {
    /// The provider's answer.
    provider: bool,
    /// An answer from Taskcluster.
    answer: bool,
    /// The existence of the worker pool, for the registration.
    pool: bool,
}

impl Need {
    fn of(config: &RunnerConfig, cached: Option<&CachedRun>, now: Timestamp) -> Self {
        let complete = cached.filter(|cached| cached.stage == Stage::Complete);
        match &config.provider {
            ProviderConfig::Standalone(_) => {
                Self { provider: true, answer: config.get_secrets && complete.is_none(), pool: false }
            }
            // A static worker registers at each start, and falls back on the cache if Taskcluster does not answer.
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
            // worker-manager does not know the legacy provisioner's pools.
            ProviderConfig::AwsProvisioner(_) => Self { provider: true, answer: true, pool: false },
            ProviderConfig::Aws(_) | ProviderConfig::Azure(_) | ProviderConfig::Google(_) => {
                Self { provider: true, answer: true, pool: true }
            }
        }
    }
}

/// Reports expired credentials in the runner configuration, with which no start continues.
fn expired(credentials: &Credentials, now: Timestamp) -> Option<Step> {
    // As in a start: credentials that are about to expire are used until their last quarter.
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

/// Checks name resolution, connection and answer. Returns true if there was an answer.
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
    match counters.clock_offset(Duration::MAX) {
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

/// Uses the available credentials, or none.
async fn pool(client: &Client, identified: &Identified) -> Step {
    let pool_id = identified.identity.worker_pool_id.as_str();
    let answer = match &identified.proof {
        Proof::Credentials(credentials) => client.worker_pool(credentials, pool_id, Effort::Once).await,
        _ => client.public_worker_pool(pool_id, Effort::Once).await,
    };
    match answer {
        Ok(_) => Step::new("worker pool", Outcome::Ok, format!("{pool_id} exists")),
        Err(cause) if cause.status() == Some(403) => {
            let scope = format!("worker-manager:get-worker-pool:{pool_id}");
            let found = format!("{pool_id}: reading the definition takes the scope {scope}");
            Step::new("worker pool", Outcome::Skipped, found)
        }
        // The step for the credentials reports that.
        Err(cause) if cause.status() == Some(401) => {
            Step::new("worker pool", Outcome::Skipped, format!("{pool_id}: the credentials are refused"))
        }
        Err(cause) => Step::new("worker pool", Outcome::Failed, cause.to_string()),
    }
}

/// Checks whether worker-manager would register the worker, as far as that can be determined without registering it.
async fn registration(
    config: &RunnerConfig,
    client: &Client,
    identified: &Identified,
    cached: Option<&CachedRun>,
) -> Option<Step> {
    let is_static = match &config.provider {
        ProviderConfig::Standalone(_) | ProviderConfig::AwsProvisioner(_) => return None,
        ProviderConfig::Static(_) => true,
        ProviderConfig::Aws(_) | ProviderConfig::Azure(_) | ProviderConfig::Google(_) => false,
    };
    if !is_static {
        let why = "a machine can register only once, and a check must not use that up";
        return cached.is_none().then(|| Step::new("registration", Outcome::Skipped, why));
    }
    let identity = &identified.identity;
    let name = WorkerName {
        worker_pool_id: identity.worker_pool_id.to_string(),
        worker_group: identity.worker_group.clone(),
        worker_id: identity.worker_id.clone(),
    };
    let worker = format!("{}/{}", name.worker_group, name.worker_id);
    Some(match client.public_worker(&name, Effort::Once).await {
        Err(cause) if cause.status() == Some(404) => {
            let found =
                format!("worker-manager knows no worker {worker} in this pool: create it there first");
            Step::new("registration", Outcome::Failed, found)
        }
        Ok(()) => {
            let found =
                format!("the worker {worker} exists; only registering tells whether its secret is right");
            Step::new("registration", Outcome::Skipped, found)
        }
        Err(_) => {
            let found = format!(
                "only registering tells whether the worker {worker} exists and its secret is right, and it has effects"
            );
            Step::new("registration", Outcome::Skipped, found)
        }
    })
}

/// Checks whether Taskcluster accepts the credentials of this run, and lets them read the pool's secrets.
async fn access(
    config: &RunnerConfig,
    client: &Client,
    identified: &Identified,
    cached: Option<&CachedRun>,
) -> Vec<Step> {
    let fetches = config.get_secrets && cached.is_none_or(|cached| cached.stage != Stage::Complete);
    let Proof::Credentials(credentials) = &identified.proof else {
        let why = "they take the credentials that registering gives";
        let registers = matches!(&config.provider, ProviderConfig::Static(_)) || cached.is_none();
        return Vec::from_iter(
            (config.get_secrets && registers).then(|| Step::new("secrets", Outcome::Skipped, why)),
        );
    };
    let mut steps = vec![accepted(client, credentials).await];
    if fetches {
        let step = if steps[0].outcome == Outcome::Failed {
            Step::new("secrets", Outcome::Skipped, "the credentials are refused")
        } else {
            readable_secrets(client, credentials, identified.identity.worker_pool_id.as_str()).await
        };
        steps.push(step);
    }
    steps
}

/// Checks whether Taskcluster accepts these credentials.
async fn accepted(client: &Client, credentials: &Credentials) -> Step {
    let client_id = &credentials.client_id;
    match client.current_scopes(credentials, Effort::Once).await {
        Ok(scopes) if scopes.is_empty() => {
            let found = format!("Taskcluster accepts {client_id}, which has no scopes: grant it some");
            Step::new("credentials", Outcome::Warning, found)
        }
        Ok(scopes) => {
            let found = format!("Taskcluster accepts {client_id}, which has {} scopes", scopes.len());
            Step::new("credentials", Outcome::Ok, found)
        }
        // Authentication succeeded before the scopes were checked.
        Err(cause) if cause.status() == Some(403) => {
            let found =
                format!("Taskcluster accepts {client_id}; reading its scopes takes auth:current-scopes");
            Step::new("credentials", Outcome::Ok, found)
        }
        Err(cause) if cause.status() == Some(401) => {
            Step::new("credentials", Outcome::Failed, cause.to_string())
        }
        Err(cause) => Step::new("credentials", Outcome::Warning, cause.to_string()),
    }
}

/// Reads the secrets as a start does, and discards them.
async fn readable_secrets(client: &Client, credentials: &Credentials, pool: &str) -> Step {
    let mut layers = Layers::default();
    let secrets = client.secrets().clone();
    match layers.take_secrets(client, credentials, pool, Effort::Once, &secrets).await {
        Ok(()) => {
            let count = layers.layers.len();
            Step::new("secrets", Outcome::Ok, format!("{count} of the pool's secrets can be read"))
        }
        Err(cause) => Step::new("secrets", Outcome::Failed, ErrorChain(&cause).to_string()),
    }
}
