//! A run: everything that is determined for one start of the worker.

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

/// A JSON object, its keys sorted.
pub type Object = Map<String, Value>;

/// `<provisionerId>/<workerType>`, as in `releng-hardware/linux-perf`: two non-empty halves, split at the FIRST slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerPoolId {
    whole: String,
    slash: usize,
}

impl WorkerPoolId {
    /// `None` unless there is a slash with something on both sides.
    pub fn parse(text: &str) -> Option<Self> {
        let slash = text.find('/')?;
        let halves = slash > 0 && slash + 1 < text.len();
        halves.then(|| Self { whole: text.to_owned(), slash })
    }

    /// Stands for the pool of a worker whose provider has not been asked yet.
    pub fn unknown() -> Self {
        Self { whole: "unknown/unknown".to_owned(), slash: "unknown".len() }
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.whole
    }

    /// What stands before the first slash.
    pub fn provisioner_id(&self) -> &str {
        self.whole.get(..self.slash).unwrap_or_default()
    }

    /// What stands after the first slash.
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
    /// The worker-manager provider that the pool belongs to.
    pub provider_id: String,
    /// The pool.
    pub worker_pool_id: WorkerPoolId,
    /// The group within the pool; for clouds the region or zone.
    pub worker_group: String,
    /// The worker's name within its group.
    pub worker_id: String,
}

/// Everything determined for one start of the worker: what `prepare` makes and a worker implementation turns into a
/// launch.
#[derive(Debug, Clone)]
pub struct Run {
    /// The deployment's root URL, without trailing slashes.
    pub root_url: String,
    /// Who the worker is.
    pub identity: WorkerIdentity,
    /// What the worker may do, and until when.
    pub credentials: Credentials,
    /// Where the worker is: `cloud` always, then what the provider knows.
    pub worker_location: BTreeMap<String, String>,
    /// What the provider knows about the machine; `instance-id`, `public-ipv4` …
    pub provider_metadata: Object,
    /// The worker's configuration, merged from its sources, before the worker implementation adds its own.
    pub worker_config: worker_config::Merged,
    /// What it was merged from, beside the runner file.
    pub parts: Parts,
    /// What comes with it, in the order of writing.
    pub files: Vec<files::ShippedFile>,
    /// The secret that the registration gave, for one use: to renew the credentials. `None`: not registered.
    pub registration_secret: Option<SecretString>,
    /// The launch config that made this machine, where its provider tells (aws, azure).
    pub launch_config_id: Option<String>,
}
