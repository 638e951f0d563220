//! Workers whose identity is in the runner configuration: `standalone` and `static`. No service is contacted.

use super::{Identified, Proof, ProviderError};
use crate::config::FixedIdentity;
use crate::run_spec::{WorkerIdentity, WorkerPoolId};

/// Returns the configured identity with this proof. `cloud` is added to the location unless the configuration sets it.
pub(super) fn identified(
    fixed: &FixedIdentity,
    provider_id: &str,
    cloud: &str,
    proof: Proof,
) -> Result<Identified, ProviderError> {
    let pool = WorkerPoolId::parse(&fixed.worker_pool_id).ok_or_else(|| ProviderError::Value {
        key: "workerPoolID",
        why: format!("expected <provisionerId>/<workerType>, found {:?}", fixed.worker_pool_id),
    })?;
    let mut worker_location = fixed.worker_location.clone();
    worker_location.entry("cloud".to_owned()).or_insert_with(|| cloud.to_owned());
    Ok(Identified {
        root_url: fixed.root_url.clone(),
        identity: WorkerIdentity {
            provider_id: provider_id.to_owned(),
            worker_pool_id: pool,
            worker_group: fixed.worker_group.clone(),
            worker_id: fixed.worker_id.clone(),
        },
        worker_location,
        provider_metadata: fixed.provider_metadata.clone(),
        proof,
        own_config: None,
        launch_config_id: None,
    })
}
