//! Providers: who the worker is, where it is, and what proves it. One file a provider.
//!
//! To add one: a variant of [`ProviderConfig`] with its keys (config/), a file here that turns it into an
//! [`Identified`], and a line in [`identify`].

use std::collections::BTreeMap;

use secrecy::SecretString;
use thiserror::Error;

use crate::config::ProviderConfig;
use crate::credentials::Credentials;
use crate::run::{Object, WorkerIdentity};

mod standalone;

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
}

/// Why a provider cannot tell who the worker is.
#[derive(Debug, Error)]
pub enum ProviderError {
    /// The runner configuration asks for something that cannot be had on this host or with this version.
    #[error(
        "provider.providerType: {provider_type} is not supported by this version of start-worker; supported: standalone"
    )]
    Unsupported {
        /// The value of `provider.providerType`.
        provider_type: &'static str,
    },
    /// A value in the runner configuration is of no use.
    #[error("provider.{key}: {why}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong with it, and what to do. Never the value of a secret.
        why: String,
    },
}

/// Asks the provider that the runner configuration names.
pub fn identify(config: &ProviderConfig) -> Result<Identified, ProviderError> {
    match config {
        ProviderConfig::Standalone(config) => standalone::identify(config),
        other => Err(ProviderError::Unsupported { provider_type: other.provider_type() }),
    }
}
