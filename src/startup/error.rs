//! Errors of a start, and their kinds, which determine the reaction.

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

/// The reason why there is no run.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// The provider cannot identify the worker.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The client cannot be created for this root URL.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Another runner runs this worker.
    #[error(transparent)]
    Locked(LockError),
    #[error("{cause}; {advice}")]
    Cache {
        cause: CacheError,
        /// The remedy.
        advice: &'static str,
    },
    /// The credentials in the runner configuration have expired.
    #[error("provider.certificate: the credentials expired at {0}; get new ones")]
    StandaloneExpired(Timestamp),
    /// The cached credentials have expired or are about to, and cannot be replaced.
    #[error(
        "the credentials in the cached run {} {} at {at}, and this machine cannot register again; replace the machine",
        path.display(), if *soon { "are about to expire," } else { "expired" }
    )]
    CachedExpired {
        /// The cache's path.
        path: PathBuf,
        /// The time of expiry.
        at: Timestamp,
        /// True if the credentials have not expired yet.
        soon: bool,
    },
    /// The worker could not be registered.
    #[error("cannot register the worker: {cause}{}", lost_answer(*once, cause))]
    Registration {
        cause: CallError,
        /// True if this kind of worker can register only once.
        once: bool,
    },
    /// A secret cannot be read.
    #[error("cannot read the secret {name}: {cause}{}", missing_scope(cause, client_id.as_deref()))]
    Secret {
        /// The secret's name; for the legacy provisioner's, its purpose.
        name: String,
        cause: CallError,
        /// The client whose credentials were used; `None`: none are needed.
        client_id: Option<String>,
    },
    /// The legacy provisioner's secret could not be removed: anybody with its token can read it.
    #[error("cannot remove the secret of this instance, which others may read with its token: {0}")]
    SecretStays(CallError),
    /// The worker configuration from the provider or a secret is not JSON.
    #[error("{place} cannot be used as worker configuration: {why}")]
    NotJson {
        /// Its source.
        place: String,
        why: serde_json::Error,
    },
    /// The worker configuration from the provider or a secret has the wrong form.
    #[error("cannot make the worker configuration: {0}")]
    Form(#[from] FormError),
    /// A file of the worker configuration cannot be written.
    #[error("{}", ErrorChain(.0))]
    Files(FileError),
    /// The worker's implementation cannot use the run.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A disk does not answer.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// The text contains the causes, so the error is not a source.
impl From<FileError> for PrepareError {
    fn from(error: FileError) -> Self {
        Self::Files(error)
    }
}

/// The kind of a [`PrepareError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Taskcluster or the metadata service could not be reached in time. A later attempt may succeed.
    Unreachable,
    /// A service refused a request, or returned an unusable answer. An attempt may succeed once that has been changed.
    Refused,
    /// The runner configuration cannot be used on this host.
    Configuration,
    /// A file has the wrong permissions, owner or type.
    Permissions,
    /// Any other failure.
    Other,
}

impl PrepareError {
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

/// A cloud's worker is refused permanently if it was registered by an attempt whose answer was lost, or by an earlier
/// start whose cache is gone.
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
    // worker-manager names its clients like this; their scopes come from their pool's role.
    if client_id.starts_with("worker/") {
        format!("; the worker pool's role lacks the scope {scopes}")
    } else {
        format!("; the client {client_id} lacks the scope {scopes}")
    }
}
