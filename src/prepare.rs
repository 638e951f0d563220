//! The pipeline that makes a [`Run`]: provider → worker configuration. One readable function.

use crate::config::RunnerConfig;
use crate::provider::{self, ProviderError};
use crate::run::Run;
use crate::run::worker_config::{Merged, Source};

/// Determines everything for one start of the worker.
pub fn prepare(config: &RunnerConfig) -> Result<Run, ProviderError> {
    let identified = provider::identify(&config.provider)?;
    let mut worker_config = Merged::new();
    worker_config.merge(config.worker_config.clone(), &Source::RunnerFile);
    Ok(Run {
        root_url: identified.root_url,
        identity: identified.identity,
        credentials: identified.credentials,
        worker_location: identified.worker_location,
        provider_metadata: identified.provider_metadata,
        worker_config,
    })
}
