//! Providers: determine the worker's identity and location, and the proof of its identity. One file for each provider.
//!
//! To add one: a variant of [`ProviderConfig`] with its keys (config/), a file here that converts it to an
//! [`Identified`], and a line in [`identify`]. The module `metadata` queries the clouds' metadata services;
//! [`interruption`] watches for their notices of the machine's end.

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

/// A provider's information about the worker.
#[derive(Debug, Clone)]
pub struct Identified {
    /// The deployment's root URL, without trailing slashes.
    pub root_url: String,
    pub identity: WorkerIdentity,
    /// The worker's location; contains `cloud`.
    pub worker_location: BTreeMap<String, String>,
    /// Properties of the machine.
    pub provider_metadata: Object,
    /// The proof of the worker's identity.
    pub proof: Proof,
    /// Worker configuration from the provider itself (aws-provisioner's user-data).
    pub own_config: Option<Object>,
    /// The launch config from which this machine was created (aws, azure).
    pub launch_config_id: Option<String>,
}

/// The proof of a worker's identity.
#[derive(Debug, Clone)]
pub enum Proof {
    /// The credentials are known; the worker is not registered.
    Credentials(Credentials),
    /// `workerIdentityProof` of registerWorker, by its keys.
    Registration(BTreeMap<&'static str, SecretString>),
    /// The legacy aws-provisioner's single-use token, which its `getSecret` exchanges for credentials.
    ProvisionerSecret(SecretString),
}

/// The reason why a provider cannot identify the worker.
#[derive(Debug, Error)]
pub enum ProviderError {
    /// A value in the runner configuration is invalid.
    #[error("provider.{key}: {why}")]
    Value {
        key: &'static str,
        /// The fault and the remedy. Never the value of a secret.
        why: String,
    },
    /// The metadata service did not answer within a start's time limit.
    #[error("cannot read {what}: {why}; gave up after {} s", after.as_secs())]
    Unreachable {
        /// The URL, without its query.
        what: String,
        /// The reason for the failure of the last attempt.
        why: String,
        /// The total time of the attempts.
        after: Duration,
    },
    /// The metadata service's answer is unusable.
    #[error("{what}: {why}")]
    Answer {
        /// The URL without its query, and the part of its answer.
        what: String,
        /// The fault. Names the key or tag, and shows no value that may be secret.
        why: String,
    },
    /// A part of the metadata service's answer is missing; it may appear while the machine boots.
    #[error("{what}: {why}")]
    Incomplete {
        /// The URL without its query, and the part of its answer.
        what: String,
        /// The missing key or tag.
        why: String,
    },
    /// The cloud has already announced the machine's end, so starting a worker is pointless.
    #[error("instance is about to shut down: {0}")]
    AboutToShutDown(String),
    /// The HTTP client cannot be created.
    #[error("cannot make an HTTP client: {0}")]
    Client(String),
}

impl ProviderError {
    /// Returns true if no service answered, so that a later attempt may succeed.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// The time during which a start retries temporary failures.
#[derive(Debug, Clone, Default)]
pub struct Patience {
    /// `None`: unlimited.
    pub time: Option<Duration>,
    /// Receives the current failure.
    pub trouble: CurrentRetry,
}

/// Identifies the worker with the provider in the runner configuration. `implementation` is the worker's
/// (`generic-worker`): the legacy aws-provisioner stores worker configuration under its name. Fails without an answer
/// within `patience`, for an unusable answer, and on a machine that is about to end.
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

/// Identifies the worker from the runner configuration alone; `None`: that requires a query to the provider.
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

/// Builds a location.
fn location<const N: usize>(parts: [(&str, &str); N]) -> BTreeMap<String, String> {
    parts.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Builds a machine's properties from the values that are known.
fn metadata_of<'a>(values: impl IntoIterator<Item = (&'a str, Option<String>)>) -> Object {
    let known = values.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into())));
    known.collect()
}
