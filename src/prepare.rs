//! The pipeline that makes a [`Run`]: provider → worker configuration. One readable function.

use crate::config::RunnerConfig;
use crate::credentials::Credentials;
use crate::provider::{self, Identified, Proof, ProviderError};
use crate::run::{Parts, Run};

/// Determines everything for one start of the worker.
pub fn prepare(config: &RunnerConfig) -> Result<Run, ProviderError> {
    let identified = provider::identify(&config.provider)?;
    match identified.proof.clone() {
        Proof::Credentials(credentials) => Ok(run_of(identified, credentials, config)),
        Proof::Registration(_) => {
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
