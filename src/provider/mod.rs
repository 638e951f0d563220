//! Providers: who the worker is, where it is, and what proves it. One file a provider.
//!
//! To add one: a variant of [`ProviderConfig`] with its keys (config/), a file here that turns it into an
//! [`Identified`], and a line in [`identify`]. Clouds' metadata services are asked through `metadata`; what they say of
//! the machine's end is watched for in [`interruption`].

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;
use thiserror::Error;

use crate::config::ProviderConfig;
use crate::credentials::Credentials;
use crate::run_spec::{Object, WorkerIdentity};
use crate::telemetry::current_retry::CurrentRetry;

pub mod aws;
pub mod aws_provisioner;
pub mod azure;
mod document;
mod fixed;
pub mod google;
pub mod interruption;
pub mod launched;
mod metadata;
pub mod spot;
mod standalone;
mod static_;

pub use metadata::MetadataOrigins;
pub use static_::static_proof;

/// What a provider knows of the worker.
#[derive(Debug, Clone)]
pub struct Identified {
    /// The deployment's root URL, without trailing slashes.
    pub root_url: String,
    /// Who the worker is.
    pub identity: WorkerIdentity,
    /// Where it is; has `cloud`.
    pub worker_location: BTreeMap<String, String>,
    /// What is known of the machine.
    pub provider_metadata: Object,
    /// What proves it.
    pub proof: Proof,
    /// Worker configuration that the provider itself hands over (aws-provisioner's user-data).
    pub own_config: Option<Object>,
    /// The launch config that made this machine (aws, azure).
    pub launch_config_id: Option<String>,
}

/// What proves who a worker is.
#[derive(Debug, Clone)]
pub enum Proof {
    /// Credentials are at hand: it is not registered.
    Credentials(Credentials),
    /// `workerIdentityProof` of registerWorker, by its keys.
    Registration(BTreeMap<&'static str, SecretString>),
    /// The legacy aws-provisioner's token, for one use, that its `getSecret` gives credentials for.
    ProvisionerSecret(SecretString),
}

/// Why a provider cannot tell who the worker is.
#[derive(Debug, Error)]
pub enum ProviderError {
    /// A value in the runner configuration is of no use.
    #[error("provider.{key}: {why}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong with it, and what to do. Never the value of a secret.
        why: String,
    },
    /// The metadata service has given no answer for as long as a start may take.
    #[error("cannot read {what}: {why}; gave up after {} s", after.as_secs())]
    Unreachable {
        /// The URL, without its query.
        what: String,
        /// Why the last attempt failed.
        why: String,
        /// How long it was tried.
        after: Duration,
    },
    /// What the metadata service says is of no use.
    #[error("{what}: {why}")]
    Answer {
        /// The URL, without its query, and what of its answer.
        what: String,
        /// What is wrong; names the key or tag, shows no value that may be secret.
        why: String,
    },
    /// A part of what the metadata service should say is missing: it may come while the machine boots.
    #[error("{what}: {why}")]
    Incomplete {
        /// The URL, without its query, and what of its answer.
        what: String,
        /// The missing key or tag.
        why: String,
    },
    /// The cloud has announced the machine's end already: a worker is not worth starting.
    #[error("instance is about to shut down: {0}")]
    AboutToShutDown(String),
    /// There is no HTTP client.
    #[error("cannot make an HTTP client: {0}")]
    Client(String),
}

impl ProviderError {
    /// Whether nobody has answered, so that it may go well at another time.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// How long a start goes on that fails for reasons that may pass.
#[derive(Debug, Clone, Default)]
pub struct Patience {
    /// `None`: for ever.
    pub time: Option<Duration>,
    /// Whom to tell meanwhile what does not work.
    pub trouble: CurrentRetry,
}

/// Asks the provider that the runner configuration names. `implementation` is the worker's (`generic-worker`): the
/// legacy aws-provisioner hands over worker configuration by its name.
///
/// # Errors
///
/// No answer within `patience`; what it says is of no use; the machine is about to end.
pub async fn identify(
    config: &ProviderConfig,
    origins: &MetadataOrigins,
    implementation: &str,
    patience: Patience,
) -> Result<Identified, ProviderError> {
    match config {
        ProviderConfig::Standalone(config) => standalone::identify(config),
        ProviderConfig::Static(config) => static_::identify(config),
        ProviderConfig::Aws(_) => aws::identify(origins, patience).await,
        ProviderConfig::Azure(_) => azure::identify(origins, patience).await,
        ProviderConfig::Google(_) => google::identify(origins, patience).await,
        ProviderConfig::AwsProvisioner(_) => {
            aws_provisioner::identify(origins, implementation, patience).await
        }
    }
}

/// What is in the runner configuration, asking nobody; `None`: the provider has to be asked.
pub fn identify_offline(config: &ProviderConfig) -> Option<Result<Identified, ProviderError>> {
    match config {
        ProviderConfig::Standalone(config) => Some(standalone::identify(config)),
        ProviderConfig::Static(config) => Some(static_::identify(config)),
        ProviderConfig::Aws(_)
        | ProviderConfig::Azure(_)
        | ProviderConfig::Google(_)
        | ProviderConfig::AwsProvisioner(_) => None,
    }
}

/// Returns the time at which credentials in the runner configuration become valid, if that is in the future.
pub fn not_yet_valid(config: &ProviderConfig, now: jiff::Timestamp) -> Option<jiff::Timestamp> {
    match config {
        ProviderConfig::Standalone(config) => standalone::not_yet_valid(config.certificate.as_ref()?, now),
        _ => None,
    }
}

/// A location of these parts.
fn location<const N: usize>(parts: [(&str, &str); N]) -> BTreeMap<String, String> {
    parts.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// What is known of a machine: what has a value.
fn metadata_of<'a>(values: impl IntoIterator<Item = (&'a str, Option<String>)>) -> Object {
    let known = values.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into())));
    known.collect()
}
