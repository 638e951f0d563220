//! A run as far as it can be determined offline: for `check`, and for trying out a configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;

use super::PrepareError;
use super::cached::outdated;
use super::register::run_of;
use crate::clock::{Clock, SystemClock};
use crate::config::{FixedIdentity, ProviderConfig, RunnerConfig};
use crate::credentials::Credentials;
use crate::error_chain::ErrorChain;
use crate::host::private_file::Access;
use crate::provider::{self, Proof};
use crate::run_spec::cache::{self, CachedRun};
use crate::run_spec::{Run, WorkerIdentity, WorkerPoolId};

/// The time before expiry at which credentials that are not renewed make the worker finish its tasks.
const DRAIN_BEFORE: SignedDuration = SignedDuration::from_mins(30);

const UNKNOWN: &str = "known at start";

/// The part of a run that is known offline.
pub struct Offline {
    /// The run; unknown values are `known at start`.
    pub run: Run,
    /// True if the worker's identity and credentials are known from the runner configuration or from the cached run.
    pub known: bool,
    /// True if the cached run was used.
    pub from_cache: bool,
    /// The reason why this host cannot start, or cannot start from its cache.
    pub trouble: Option<String>,
    /// Problems that will soon keep this host from working.
    pub warning: Option<String>,
}

/// Examines the runner configuration and the cached run, if there is one.
pub fn offline(config: &RunnerConfig) -> Offline {
    let identified = provider::identify_offline(&config.provider);
    let (cached, mut trouble) = match cached(config) {
        Ok(cached) => (cached, None),
        Err(cause) => (None, Some(ErrorChain(&cause).to_string())),
    };
    let cached = cached.filter(|cached| outdated(config, cached).is_none());
    if let Some(cached) = cached.as_ref().filter(|cached| cached.leaving.is_some()) {
        trouble = Some(cached.how_far_it_has_left());
    }
    if let Some(cached) = cached {
        let run = cached.into_run(&config.worker_config);
        // A static worker receives new credentials when it registers.
        let (expired, warning) = match &config.provider {
            ProviderConfig::Static(_) => (None, None),
            _ => expiry(&run.credentials, "the cached run"),
        };
        return Offline { run, known: true, from_cache: true, trouble: trouble.or(expired), warning };
    }
    match identified {
        Some(Ok(identified)) => {
            let (credentials, known) = match identified.proof.clone() {
                Proof::Credentials(credentials) => (credentials, true),
                Proof::Registration(_) | Proof::ProvisionerSecret(_) => (unknown_credentials(), false),
            };
            let (expired, warning) = expiry(&credentials, "provider.certificate");
            let valid_from = provider::not_yet_valid(&config.provider, SystemClock.now());
            let early = valid_from.map(|start| {
                format!(
                    "provider.certificate: the credentials are not valid before {start}; get others, or wait"
                )
            });
            let warning = warning.or(early);
            let mut run = run_of(identified, credentials);
            run.worker_config = run.parts.merge_with(&config.worker_config);
            Offline { run, known, from_cache: false, trouble: trouble.or(expired), warning }
        }
        Some(Err(cause)) => Offline {
            run: placeholder(config),
            known: false,
            from_cache: false,
            trouble: Some(ErrorChain(&cause).to_string()),
            warning: None,
        },
        None => Offline { run: placeholder(config), known: false, from_cache: false, trouble, warning: None },
    }
}

/// Describes credentials that have expired or will expire soon: a worker is asked to finish half an hour before.
fn expiry(credentials: &Credentials, place: &str) -> (Option<String>, Option<String>) {
    let Some(at) = credentials.expires else { return (None, None) };
    let now = SystemClock.now();
    let left = at.duration_since(now);
    if left <= SignedDuration::ZERO {
        return (Some(format!("{place}: the credentials expired at {at}; get new ones")), None);
    }
    let seconds = Duration::from_secs(left.as_secs().unsigned_abs());
    let time = humantime::format_duration(seconds);
    let soon = format!("{place}: the credentials expire at {at}, in {time}; get new ones");
    (None, (left <= DRAIN_BEFORE).then_some(soon))
}

fn cached(config: &RunnerConfig) -> Result<Option<CachedRun>, PrepareError> {
    let Some(path) = &config.cache_over_restarts else { return Ok(None) };
    let dynamic = config.provider.is_dynamic();
    cache::read(path, Access::Observe)
        .map_err(|cause| PrepareError::Cache { advice: cause.advice(dynamic), cause })
}

/// A run of which only the runner configuration's part is known. Merging it shows the parts that a start adds.
fn placeholder(config: &RunnerConfig) -> Run {
    /// The machine's properties that providers report and workers receive.
    const METADATA: [&str; 7] = [
        "public-ipv4",
        "local-ipv4",
        "instance-type",
        "instance-id",
        "region",
        "availability-zone",
        "public-hostname",
    ];
    let metadata = match fixed(&config.provider) {
        Some(identity) => identity.provider_metadata.clone(),
        None => METADATA.into_iter().map(|key| (key.to_owned(), UNKNOWN.into())).collect(),
    };
    let pool = fixed(&config.provider).and_then(|identity| WorkerPoolId::parse(&identity.worker_pool_id));
    let parts = crate::run_spec::Parts::default();
    Run {
        root_url: UNKNOWN.to_owned(),
        identity: WorkerIdentity {
            provider_id: config.provider.provider_type().to_owned(),
            worker_pool_id: pool.unwrap_or_else(WorkerPoolId::unknown),
            worker_group: UNKNOWN.to_owned(),
            worker_id: UNKNOWN.to_owned(),
        },
        credentials: unknown_credentials(),
        worker_location: BTreeMap::new(),
        provider_metadata: metadata,
        worker_config: parts.merge_with(&config.worker_config),
        parts,
        files: Vec::new(),
        registration_secret: None,
        launch_config_id: None,
    }
}

fn unknown_credentials() -> Credentials {
    Credentials {
        client_id: UNKNOWN.to_owned(),
        access_token: UNKNOWN.into(),
        certificate: Some(UNKNOWN.into()),
        expires: None,
        obtained: None,
    }
}

/// The credentials of a worker without credentials.
pub(super) fn no_credentials() -> Credentials {
    Credentials {
        client_id: String::new(),
        access_token: "".into(),
        certificate: None,
        expires: None,
        obtained: None,
    }
}

fn fixed(provider: &ProviderConfig) -> Option<&FixedIdentity> {
    match provider {
        ProviderConfig::Standalone(config) => Some(&config.identity),
        ProviderConfig::Static(config) => Some(&config.identity),
        _ => None,
    }
}
