//! Data that worker-manager passes to a machine that it has launched: EC2's user-data, or a GCE instance's attribute.

use super::ProviderError;
use super::document::Document;
use crate::run_spec::{WorkerIdentity, WorkerPoolId};

/// The worker that the machine should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// The deployment's root URL, without trailing slashes.
    pub root_url: String,
    /// The worker-manager provider of the pool.
    pub provider_id: String,
    pub worker_pool_id: WorkerPoolId,
    /// The group within the pool.
    pub worker_group: String,
    /// The launch config from which the machine was created, if it is known.
    pub launch_config_id: Option<String>,
}

impl Launched {
    /// Parses a text. `what` names its source in errors. Errors show no value except a worker pool's id.
    pub fn parse(what: String, text: &str) -> Result<Self, ProviderError> {
        let document = Document::parse(what, text)?;
        Ok(Self {
            root_url: document.root_url("rootUrl")?,
            provider_id: document.text("providerId")?,
            worker_pool_id: document.worker_pool_id("workerPoolId")?,
            worker_group: document.text("workerGroup")?,
            launch_config_id: document.optional_text("launchConfigId")?,
        })
    }

    /// The identity of the worker with this id.
    pub(super) fn identity(self, worker_id: String) -> WorkerIdentity {
        WorkerIdentity {
            provider_id: self.provider_id,
            worker_pool_id: self.worker_pool_id,
            worker_group: self.worker_group,
            worker_id,
        }
    }
}
