//! The pipeline that makes a [`Run`]: provider → worker configuration. One readable function.

use crate::config::{ProviderConfig, RunnerConfig};
use crate::credentials::Credentials;
use crate::provider::{self, Identified, MetadataOrigins, Proof, ProviderError};
use crate::run::{Parts, Run};

/// Determines everything for one start of the worker.
pub async fn prepare(config: &RunnerConfig, origins: &MetadataOrigins) -> Result<Run, ProviderError> {
    if !matches!(config.provider, ProviderConfig::Standalone(_)) {
        return Err(ProviderError::Unsupported { provider_type: config.provider.provider_type() });
    }
    let implementation = config.worker.implementation.name();
    let asked = provider::identify(&config.provider, origins, implementation, config.start_timeout);
    with_credentials(asked.await?, config)
}

/// As far as it can be told without asking anybody.
pub fn prepare_offline(config: &RunnerConfig) -> Result<Run, ProviderError> {
    match provider::identify_offline(&config.provider) {
        Some(identified) => with_credentials(identified?, config),
        None => Err(ProviderError::Unsupported { provider_type: config.provider.provider_type() }),
    }
}

fn with_credentials(identified: Identified, config: &RunnerConfig) -> Result<Run, ProviderError> {
    match identified.proof.clone() {
        Proof::Credentials(credentials) => Ok(run_of(identified, credentials, config)),
        Proof::Registration(_) | Proof::ProvisionerSecret(_) => {
            Err(ProviderError::Unsupported { provider_type: config.provider.provider_type() })
        }
    }
}

/// The run of a worker whose provider has told who it is, before secrets.
pub fn run_of(identified: Identified, credentials: Credentials, config: &RunnerConfig) -> Run {
    let parts = Parts::default();
    Run {
        root_url: identified.root_url,
        identity: identified.identity,
        credentials,
        worker_location: identified.worker_location,
        provider_metadata: identified.provider_metadata,
        worker_config: parts.merge_with(&config.worker_config),
        parts,
        files: Vec::new(),
        registration_secret: None,
        launch_config_id: identified.launch_config_id,
    }
}
