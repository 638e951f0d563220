//! The pipeline that makes a [`Run`]: provider → worker configuration. One readable function.

use crate::config::RunnerConfig;
use crate::provider::{self, Identified, ProviderError};
use crate::run::Run;
use crate::run::worker_config::{Merged, Source};

/// Determines everything for one start of the worker.
pub fn prepare(config: &RunnerConfig) -> Result<Run, ProviderError> {
    Ok(run_of(provider::identify(&config.provider)?, config))
}

/// The run of a worker whose provider has told who it is.
pub fn run_of(identified: Identified, config: &RunnerConfig) -> Run {
    let mut worker_config = Merged::new();
    worker_config.merge(config.worker_config.clone(), &Source::RunnerFile);
    Run {
        root_url: identified.root_url,
        identity: identified.identity,
        credentials: identified.credentials,
        worker_location: identified.worker_location,
        provider_metadata: identified.provider_metadata,
        worker_config,
    }
}
