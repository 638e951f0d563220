//! A run: all data that is determined for one start of the worker.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::credentials::Credentials;

pub mod cache;
pub mod files;
mod parts;
pub mod worker_config;

pub use parts::Parts;

/// A JSON object with sorted keys.
pub type Object = Map<String, Value>;

/// `<provisionerId>/<workerType>`, as in `releng-hardware/linux-perf`: two non-empty halves, split at the FIRST slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerPoolId {
    whole: String,
    slash: usize,
}

impl WorkerPoolId {
    /// `None` unless there is a slash with text on both sides.
    pub fn parse(text: &str) -> Option<Self> {
        let slash = text.find('/')?;
        let halves = slash > 0 && slash + 1 < text.len();
        halves.then(|| Self { whole: text.to_owned(), slash })
    }

    /// A placeholder for the pool of a worker whose provider has not been queried yet.
    pub fn unknown() -> Self {
        Self { whole: "unknown/unknown".to_owned(), slash: "unknown".len() }
    }

    pub fn as_str(&self) -> &str {
        &self.whole
    }

    /// The part before the first slash.
    pub fn provisioner_id(&self) -> &str {
        self.whole.get(..self.slash).unwrap_or_default()
    }

    /// The part after the first slash.
    pub fn worker_type(&self) -> &str {
        self.whole.get(self.slash + 1..).unwrap_or_default()
    }
}

impl fmt::Display for WorkerPoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

/// The name of this worker within a deployment. All parts are non-empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkerIdentity {
    /// The worker-manager provider of the pool.
    pub provider_id: String,
    pub worker_pool_id: WorkerPoolId,
    /// The group within the pool; for clouds the region or zone.
    pub worker_group: String,
    /// The worker's name within its group.
    pub worker_id: String,
}

/// All data determined for one start of the worker. The startup creates it, and a worker implementation converts it to
/// a launch.
#[derive(Debug, Clone)]
pub struct Run {
    /// The deployment's root URL, without trailing slashes.
    pub root_url: String,
    pub identity: WorkerIdentity,
    pub credentials: Credentials,
    /// The worker's location: always `cloud`, then the provider's further values.
    pub worker_location: BTreeMap<String, String>,
    /// The provider's properties of the machine: `instance-id`, `public-ipv4` …
    pub provider_metadata: Object,
    /// The worker's configuration, merged from its sources, without the worker implementation's own settings.
    pub worker_config: worker_config::Merged,
    /// The sources of the worker configuration, except the runner file.
    pub parts: Parts,
    /// The files of the worker configuration, in the order of writing.
    pub files: Vec<files::ShippedFile>,
    /// The single-use secret from the registration, for renewing the credentials. `None`: not registered.
    pub registration_secret: Option<SecretString>,
    /// The launch config from which this machine was created, if its provider reports it (aws, azure).
    pub launch_config_id: Option<String>,
}
