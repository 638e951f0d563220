//! Why there is no run, and of which kind that is: what a start does about it depends on it.

use std::path::PathBuf;

use jiff::Timestamp;
use thiserror::Error;

use crate::error_chain::ErrorChain;
use crate::host::blocking::Unanswered;
use crate::host::lock::LockError;
use crate::provider::ProviderError;
use crate::run_spec::cache::{CacheError, CacheErrorKind};
use crate::run_spec::files::FileError;
use crate::run_spec::worker_config::FormError;
use crate::taskcluster::{CallError, ClientError};
use crate::worker::WorkerError;

/// Why there is no run.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// The provider cannot tell who the worker is.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// There can be no client for this root URL.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Another runner runs this worker.
    #[error(transparent)]
    Locked(LockError),
    /// The cache cannot be used.
    #[error("{cause}; {advice}")]
    Cache {
        /// Why.
        cause: CacheError,
        /// What to do.
        advice: &'static str,
    },
    /// The credentials in the runner configuration are of no use.
    #[error("provider.certificate: the credentials expired at {0}; get new ones")]
    StandaloneExpired(Timestamp),
    /// The cached credentials are of no use, and there is no way to others.
    #[error(
        "the credentials in the cached run {} {} at {at}, and this machine cannot register again; replace the machine",
        path.display(), if *soon { "are about to expire," } else { "expired" }
    )]
    CachedExpired {
        /// The cache.
        path: PathBuf,
        /// When.
        at: Timestamp,
        /// That is still to come.
        soon: bool,
    },
    /// The worker is not registered.
    #[error("cannot register the worker: {cause}{}", lost_answer(*once, cause))]
    Registration {
        /// Why.
        cause: CallError,
        /// Whether this kind of worker can register only once.
        once: bool,
    },
    /// A secret cannot be had.
    #[error("cannot read the secret {name}: {cause}{}", missing_scope(cause, client_id.as_deref()))]
    Secret {
        /// Its name; for the legacy provisioner's, what it is for.
        name: String,
        /// Why.
        cause: CallError,
        /// With whose credentials; `None`: none are needed.
        client_id: Option<String>,
    },
    /// The legacy provisioner's secret could not be removed: whoever finds its token can read it.
    #[error("cannot remove the secret of this instance, which others may read with its token: {0}")]
    SecretStays(CallError),
    /// What the provider or a secret hands over is no worker configuration.
    #[error("{place} cannot be used as worker configuration: {why}")]
    NotJson {
        /// Where it came from.
        place: String,
        /// What is wrong.
        why: serde_json::Error,
    },
    /// Likewise.
    #[error("cannot make the worker configuration: {0}")]
    Form(#[from] FormError),
    /// A file that came with the worker configuration cannot be written.
    #[error("{}", ErrorChain(.0))]
    Files(FileError),
    /// The worker's implementation cannot use the run.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A disk does not answer.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Its causes are in the text, so it is no source.
impl From<FileError> for PrepareError {
    fn from(error: FileError) -> Self {
        Self::Files(error)
    }
}

/// What kind of failure a [`PrepareError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Taskcluster or the metadata service could not be reached in time: it may go well later.
    Unreachable,
    /// Somebody said no, or handed over what cannot be used: it may go well once somebody has changed that.
    Refused,
    /// The runner configuration cannot be used on this host.
    Configuration,
    /// A file's permissions, owner or kind.
    Permissions,
    /// All else.
    Other,
}

impl PrepareError {
    /// Which kind of failure this is.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Provider(cause) if cause.is_unreachable() => FailureKind::Unreachable,
            Self::Provider(ProviderError::Value { .. }) | Self::Client(_) | Self::Worker(_) => {
                FailureKind::Configuration
            }
            Self::Cache { cause, .. } if cause.kind() == CacheErrorKind::Permissions => {
                FailureKind::Permissions
            }
            Self::Registration { cause, .. } | Self::Secret { cause, .. } | Self::SecretStays(cause) => {
                if cause.refused() {
                    FailureKind::Refused
                } else {
                    FailureKind::Unreachable
                }
            }
            Self::NotJson { .. } | Self::Form(_) => FailureKind::Refused,
            Self::Provider(_)
            | Self::Cache { .. }
            | Self::Locked(_)
            | Self::StandaloneExpired(_)
            | Self::CachedExpired { .. }
            | Self::Files(_)
            | Self::Unanswered(_) => FailureKind::Other,
        }
    }
}

/// A cloud's worker that was registered by a lost answer, or by an earlier start whose cache is gone, is refused for
/// good.
fn lost_answer(once: bool, cause: &CallError) -> &'static str {
    if once && cause.refused() && cause.may_have_been_done() {
        "; an earlier attempt was carried out and its answer was lost: this machine cannot register again; replace the machine"
    } else if once && cause.refused() && cause.code() == Some("InputError") {
        "; a machine of a cloud can register only once: where this one has before (its cache is lost), replace the machine"
    } else {
        ""
    }
}

fn missing_scope(cause: &CallError, client_id: Option<&str>) -> String {
    let (Some(scopes), Some(client_id)) = (cause.missing_scopes(), client_id) else { return String::new() };
    // So worker-manager names its clients; they have the role of their pool.
    if client_id.starts_with("worker/") {
        format!("; the worker pool's role lacks the scope {scopes}")
    } else {
        format!("; the client {client_id} lacks the scope {scopes}")
    }
}
