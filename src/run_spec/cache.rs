//! The cache over restarts (`cacheOverRestarts`): a run, as a file, in the format of the Go start-worker.
//!
//! A host can be switched from that program to this one between two reboots, and back. So the keys and their types are
//! its own; `WorkerConfig` is the final merge, with what the worker implementation sets, for the Go program does not
//! make it again. What is needed beyond is under one key of our own, `Extra`; a cache without it was written by the Go
//! program. Keys that are not known are kept, at the top and under `Extra`:
//!
//! | key under `Extra` | is |
//! | --- | --- |
//! | `version` | 1 |
//! | `providerType` | `provider.providerType` of the runner configuration that it was made with |
//! | `stage` | `registered` or `complete`, see [`Stage`] |
//! | `credentialsObtained` | when `Credentials` were obtained |
//! | `layers` | the parts of the worker configuration, see [`super::Parts::Apart`]: `[{source, name?, config}]` |
//! | `whole` | in the place of `layers`: the worker configuration as the Go program cached it |
//! | `fileOrigins` | for each of `Files`, who sent it: `provider` or `secret` |
//! | `launchConfigId` | the launch config that made this machine |
//! | `leaving` | `{at, reason, deregistered?, shutdownRequested?}`: this machine leaves, see [`Leaving`]; versions before wrote `removed`, `{at, reason}` |
//!
//! A cache with `leaving` has a sentence in the place of the list of `Files`: the Go program cannot read such a cache, so
//! that it starts nothing from it either.
//!
//! A process writes its cache through one [`CacheWriter`] only.

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

/// More than any cache has, its files included.
const MOST_BYTES: u64 = 1 << 30;

/// The version of what is under `Extra`.
const VERSION: u64 = 1;

/// How the Go program says "never": its zero time.
const NEVER: &str = "0001-01-01T00:00:00.000Z";

/// What the cache file holds.
#[derive(Clone)]
pub struct CachedRun {
    /// The run. Its worker configuration is empty until it is [merged](Self::merge).
    pub run: Run,
    /// `provider.providerType` of the runner configuration that it was made with; `None`: the Go program wrote the
    /// cache, which does not say.
    pub provider_type: Option<String>,
    /// How far the run is determined.
    pub stage: Stage,
    /// The steps by which this machine leaves: no worker starts on it any more.
    pub leaving: Option<Leaving>,
    /// What somebody should know about the file as it was read.
    pub warnings: Vec<String>,
    /// What was found in the file and is not known.
    kept: Kept,
}

/// How far a run is determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The worker is registered; secrets have not been fetched and files not been written.
    Registered,
    /// All is done, the worker can start.
    Complete,
}

/// A machine that was decided to go. Each step is on the disk before the next one begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// The time of that decision.
    pub at: Timestamp,
    /// Why, for people.
    pub reason: String,
    /// The time at which worker-manager confirmed that the worker is removed, or said that it does not know it.
    pub deregistered: Option<Timestamp>,
    /// The time at which the host was first asked to shut down.
    pub shutdown_requested: Option<Timestamp>,
}

impl Leaving {
    /// A machine that was decided to go, and has not taken the first step.
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

/// Whom the runner configuration names: what a cache must have been written for.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The deployment's root URL.
    pub root_url: &'a str,
    /// `provider.providerType`.
    pub provider_type: &'a str,
    /// The worker pool.
    pub worker_pool_id: &'a str,
    /// The worker's group.
    pub worker_group: &'a str,
    /// The worker's name.
    pub worker_id: &'a str,
}

impl CachedRun {
    /// A run that is to be cached.
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

    /// Returns whether nothing is left to do for this machine to go: worker-manager takes it away.
    pub fn has_left(&self) -> bool {
        let known = self.run.registration_secret.is_some();
        self.leaving.as_ref().is_some_and(|leaving| {
            known && leaving.deregistered.is_some() && leaving.shutdown_requested.is_none()
        })
    }

    /// The steps taken so far, in words; empty where the machine does not leave.
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

    /// Makes the run's worker configuration again from its parts, with the runner file's `workerConfig` as it is now.
    pub fn merge(&mut self, runner_file: &Object) {
        self.run.worker_config = self.run.parts.merge_with(runner_file);
    }

    /// The run, merged likewise.
    #[must_use]
    pub fn into_run(mut self, runner_file: &Object) -> Run {
        self.merge(runner_file);
        self.run
    }

    /// The provider type, inferred where the Go program wrote the cache; `None`: cannot be told.
    pub fn likely_provider_type(&self) -> Option<&str> {
        let inferred = || match self.run.worker_location.get("cloud").map(String::as_str) {
            Some("aws") if self.run.identity.provider_id == "aws-provisioner" => Some("aws-provisioner"),
            Some(cloud @ ("aws" | "azure" | "google" | "standalone" | "static")) => Some(cloud),
            _ => None,
        };
        self.provider_type.as_deref().or_else(inferred)
    }

    /// Whether the cache is stale, written for another worker than the runner configuration now names; then what
    /// differs.
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

/// Leaves out what is not known: it may be secret.
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

/// Reads the cache at `path`; `None`: there is none, or an empty file that is mounted by itself. For a start `access` is [`Access::Refuse`], for a mere look
/// [`Access::Observe`]. (Blocks: on the disk.)
///
/// # Errors
///
/// It cannot be read, others have access to it, or it is not a whole run.
pub fn read(path: &Path, access: Access) -> Result<Option<CachedRun>, CacheError> {
    let failed = |problem| CacheError::new(path, problem);
    let contents = match private_file::read(path, access, MOST_BYTES) {
        Err(error) if error.kind() == private_file::ErrorKind::Missing => return Ok(None),
        result => result.map_err(|error| failed(Problem::File(error)))?,
    };
    // Something must be there to mount a file on; and it cannot be removed, only emptied.
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

/// Parses the text of a cache; `path` stands for it in errors.
///
/// # Errors
///
/// It is not a whole run.
pub fn parse(path: &Path, text: &[u8]) -> Result<CachedRun, CacheError> {
    decode::decode(text).map_err(|problem| CacheError::new(path, problem))
}

/// A start tightens the permissions of a runner configuration, but not those of a cache.
fn in_words(warning: &Warning) -> String {
    match warning {
        Warning::Loose { .. } => format!("{warning}; until then a start refuses it"),
        other => other.to_string(),
    }
}

/// Puts what [`CachedRun::encode`] made in the place of the cache at `path`, for its owner only; folders that are
/// missing on the way are made for their owner only, too. When this returns without an error it is on the disk.
/// (Blocks: on the disk.)
///
/// # Errors
///
/// It cannot be written. Then what was there before is there unchanged.
pub fn write(path: &Path, encoded: &SecretString) -> Result<(), WriteError> {
    let attributes = Attributes { mode: 0o600, owner: None };
    atomic::replace(path, encoded.expose_secret().as_bytes(), attributes, 0o700)
}
