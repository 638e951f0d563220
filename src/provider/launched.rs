//! What worker-manager says to a machine that it has launched: in EC2's user-data, in a GCE instance's attribute.

use super::ProviderError;
use super::document::Document;
use crate::run_spec::{WorkerIdentity, WorkerPoolId};

/// Which worker the machine is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// The deployment's root URL, without trailing slashes.
    pub root_url: String,
    /// The worker-manager provider that the pool belongs to.
    pub provider_id: String,
    /// The pool.
    pub worker_pool_id: WorkerPoolId,
    /// The group within the pool.
    pub worker_group: String,
    /// The launch config that made the machine, where it is told.
    pub launch_config_id: Option<String>,
}

impl Launched {
    /// Reads the text that is at `what`.
    ///
    /// # Errors
    ///
    /// It is no JSON object, or a key that is needed is missing or of no use. No value is shown but a worker pool's.
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

    /// The worker that goes by this name in its group.
    pub(super) fn identity(self, worker_id: String) -> WorkerIdentity {
        WorkerIdentity {
            provider_id: self.provider_id,
            worker_pool_id: self.worker_pool_id,
            worker_group: self.worker_group,
            worker_id,
        }
    }
}
