//! The cache over restarts (`cacheOverRestarts`): a run as a file, in the format of the Go start-worker.
//!
//! A host can be switched from the Go program to this one between two reboots, and back. The keys and their types are
//! therefore the Go program's; `WorkerConfig` is the final merge, including the worker implementation's settings,
//! because the Go program does not merge again. Further data is stored under a single key of our own, `Extra`; a cache
//! without it was written by the Go program. Unknown keys are preserved, at the top and under `Extra`:
//!
//! | key under `Extra` | is |
//! | --- | --- |
//! | `version` | 1 |
//! | `providerType` | `provider.providerType` of the runner configuration with which the cache was made |
//! | `stage` | `registered` or `complete`, see [`Stage`] |
//! | `credentialsObtained` | the time at which `Credentials` were obtained |
//! | `layers` | the parts of the worker configuration, see [`super::Parts::Apart`]: `[{source, name?, config}]` |
//! | `whole` | instead of `layers`: the worker configuration as the Go program cached it |
//! | `fileOrigins` | the origin of each of `Files`: `provider` or `secret` |
//! | `launchConfigId` | the launch config from which this machine was created |
//! | `leaving` | `{at, reason, deregistered?, shutdownRequested?}`: this machine leaves, see [`Leaving`]; earlier versions wrote `removed`, `{at, reason}` |
//!
//! A cache with `leaving` contains a sentence instead of the list of `Files`: the Go program cannot read such a cache,
//! so that it starts nothing from it, either.
//!
//! A process writes its cache through a single [`CacheWriter`].

use std::fmt;
use std::path::Path;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::{Object, Run};
use crate::host::atomic::{self, Attributes, WriteError};
use crate::host::private_file::{self, Access, Warning};

mod decode;
mod encode;
mod error;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{CacheError, CacheErrorKind};
pub use writer::CacheWriter;

use error::Problem;

/// Maximum size of a cache, including its files, in bytes.
const MOST_BYTES: u64 = 1 << 30;

/// The version of the data under `Extra`.
const VERSION: u64 = 1;

/// The Go program's zero time, which means "never".
const NEVER: &str = "0001-01-01T00:00:00.000Z";

/// The content of the cache file.
#[derive(Clone)]
pub struct CachedRun {
    /// The run. Its worker configuration is empty until it is [merged](Self::merge).
    pub run: Run,
    /// `provider.providerType` of the runner configuration with which the cache was made; `None`: the Go program wrote
    /// the cache, which does not contain it.
    pub provider_type: Option<String>,
    pub stage: Stage,
    /// The steps by which this machine leaves: no further worker starts on it.
    pub leaving: Option<Leaving>,
    /// Warnings about the file.
    pub warnings: Vec<String>,
    /// Unknown keys of the file.
    kept: Kept,
}

/// The completeness of a cached run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The worker is registered; secrets have not been fetched and files have not been written.
    Registered,
    /// The run is complete, and the worker can start.
    Complete,
}

/// A machine that is to be removed. Each step is on the disk before the next one begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// The time of the decision.
    pub at: Timestamp,
    /// The reason, for people.
    pub reason: String,
    /// The time at which worker-manager confirmed the removal of the worker, or reported that it does not know the
    /// worker.
    pub deregistered: Option<Timestamp>,
    /// The time of the first request to shut down the host.
    pub shutdown_requested: Option<Timestamp>,
}

impl Leaving {
    /// The state before the first step.
    pub fn new(at: Timestamp, reason: String) -> Self {
        Self { at, reason, deregistered: None, shutdown_requested: None }
    }
}

/// Unknown keys, at the top and under `Extra`.
#[derive(Clone, Default)]
struct Kept {
    top: Object,
    extra: Object,
}

/// The worker in the runner configuration, for which a cache must have been written.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    pub root_url: &'a str,
    /// `provider.providerType`.
    pub provider_type: &'a str,
    pub worker_pool_id: &'a str,
    pub worker_group: &'a str,
    pub worker_id: &'a str,
}

impl CachedRun {
    pub fn new(run: Run, provider_type: &str, stage: Stage) -> Self {
        Self {
            run,
            provider_type: Some(provider_type.to_owned()),
            stage,
            leaving: None,
            warnings: Vec::new(),
            kept: Kept::default(),
        }
    }

    /// Returns true if no step is left, because worker-manager removes this machine.
    pub fn has_left(&self) -> bool {
        let known = self.run.registration_secret.is_some();
        self.leaving.as_ref().is_some_and(|leaving| {
            known && leaving.deregistered.is_some() && leaving.shutdown_requested.is_none()
        })
    }

    /// Describes the steps taken so far; empty if the machine does not leave.
    pub fn how_far_it_has_left(&self) -> String {
        let Some(Leaving { at, reason, deregistered, shutdown_requested }) = &self.leaving else {
            return String::new();
        };
        let known = self.run.registration_secret.is_some();
        let deregistered = match deregistered {
            Some(at) if known => format!("worker-manager confirmed at {at} that the worker is removed"),
            Some(_) => "worker-manager does not know the worker".to_owned(),
            None => "worker-manager has not confirmed that the worker is removed".to_owned(),
        };
        let shutdown = match shutdown_requested {
            Some(at) => format!("; the host was asked to shut down at {at}"),
            None => String::new(),
        };
        format!("this machine leaves since {at} ({reason}): {deregistered}{shutdown}")
    }

    /// Merges the run's worker configuration again from its parts, with the runner file's current `workerConfig`.
    pub fn merge(&mut self, runner_file: &Object) {
        self.run.worker_config = self.run.parts.merge_with(runner_file);
    }

    /// Returns the run with its worker configuration merged again.
    #[must_use]
    pub fn into_run(mut self, runner_file: &Object) -> Run {
        self.merge(runner_file);
        self.run
    }

    /// The provider type, inferred if the Go program wrote the cache; `None`: it cannot be inferred.
    pub fn likely_provider_type(&self) -> Option<&str> {
        let inferred = || match self.run.worker_location.get("cloud").map(String::as_str) {
            Some("aws") if self.run.identity.provider_id == "aws-provisioner" => Some("aws-provisioner"),
            Some(cloud @ ("aws" | "azure" | "google" | "standalone" | "static")) => Some(cloud),
            _ => None,
        };
        self.provider_type.as_deref().or_else(inferred)
    }

    /// Returns the differences if the cache is stale: written for another worker than the one in the runner
    /// configuration.
    pub fn mismatch(&self, expected: &Expected<'_>) -> Option<String> {
        let identity = &self.run.identity;
        let root_urls = [self.run.root_url.as_str(), expected.root_url].map(|url| url.trim_end_matches('/'));
        let pairs = [
            ("root URL", root_urls),
            (
                "provider type",
                [self.likely_provider_type().unwrap_or(expected.provider_type), expected.provider_type],
            ),
            ("worker pool", [identity.worker_pool_id.as_str(), expected.worker_pool_id]),
            ("worker group", [&identity.worker_group, expected.worker_group]),
            ("worker ID", [&identity.worker_id, expected.worker_id]),
        ];
        let differing = pairs.into_iter().filter(|(_, [cached, now])| cached != now);
        let sentences: Vec<_> = differing
            .map(|(what, [cached, now])| {
                format!("written for {what} {cached}, the runner configuration now says {now}")
            })
            .collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }
}

/// Omits unknown keys, because they may be secret.
impl fmt::Debug for CachedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedRun")
            .field("run", &self.run)
            .field("provider_type", &self.provider_type)
            .field("stage", &self.stage)
            .field("leaving", &self.leaving)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

/// Reads the cache at `path`; `None`: there is no file, or an empty file that is itself a mount. `access` is
/// [`Access::Refuse`] for a start and [`Access::Observe`] for an inspection. Blocks on the disk. Fails if others have
/// access to the file, or it does not contain a complete run.
pub fn read(path: &Path, access: Access) -> Result<Option<CachedRun>, CacheError> {
    let failed = |problem| CacheError::new(path, problem);
    let contents = match private_file::read(path, access, MOST_BYTES) {
        Err(error) if error.kind() == private_file::ErrorKind::Missing => return Ok(None),
        result => result.map_err(|error| failed(Problem::File(error)))?,
    };
    // A mounted file must exist before it is written, and it cannot be removed, only emptied.
    if contents.bytes.is_empty() && atomic::is_mount_point(path) {
        return Ok(None);
    }
    let mut cached = parse(path, &contents.bytes)?;
    cached.warnings.splice(0..0, contents.warnings.iter().map(in_words));
    for warning in &mut cached.warnings {
        *warning = format!("cached run {}: {warning}", path.display());
    }
    Ok(Some(cached))
}

/// Parses the text of a cache. `path` names it in errors. Fails if it is not a complete run.
pub fn parse(path: &Path, text: &[u8]) -> Result<CachedRun, CacheError> {
    decode::decode(text).map_err(|problem| CacheError::new(path, problem))
}

/// A start removes loose permissions of a runner configuration, but not of a cache.
fn in_words(warning: &Warning) -> String {
    match warning {
        Warning::Loose { .. } => format!("{warning}; until then a start refuses it"),
        other => other.to_string(),
    }
}

/// Replaces the cache at `path` by the output of [`CachedRun::encode`], accessible only by its owner. Missing folders
/// are created, also accessible only by their owner. The file is on the disk when this returns `Ok`. Blocks on the
/// disk. On failure, the old file is unchanged.
pub fn write(path: &Path, encoded: &SecretString) -> Result<(), WriteError> {
    let attributes = Attributes { mode: 0o600, owner: None };
    atomic::replace(path, encoded.expose_secret().as_bytes(), attributes, 0o700)
}
