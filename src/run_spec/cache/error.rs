//! Errors about unusable caches, with their remedies. No message shows a value of the cache.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::host::private_file;

/// The reason why a cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the cached run {}: {problem}", path.display())]
pub struct CacheError {
    path: PathBuf,
    problem: Problem,
}

/// The kind of a [`CacheError`], for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheErrorKind {
    /// The file has the wrong permissions or type.
    Permissions,
    /// The file could not be read, for a reason other than its permissions.
    Unreadable,
    /// The file was read and does not contain a complete run.
    Content,
}

/// The fault. A key is given as its path: `Credentials.clientId`.
#[derive(Debug)]
pub(super) enum Problem {
    File(private_file::Error),
    Empty,
    NotText,
    Truncated(serde_json::Error),
    NotJson(serde_json::Error),
    Missing { key: String, expected: &'static str },
    Wrong { key: String, expected: &'static str, found: &'static str },
    TooNew,
    OriginsDoNotFit { origins: usize, files: usize },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Without the file's name, which the error already contains.
            Self::File(error) => f.write_str(&error.problem()),
            Self::Empty => f.write_str("it is empty"),
            Self::NotText => f.write_str("it is not JSON: not UTF-8"),
            Self::Truncated(cause) => write!(f, "it is truncated: {cause}"),
            Self::NotJson(cause) => write!(f, "it is not JSON: {cause}"),
            Self::Missing { key, expected } => write!(f, "{key} is missing, expected {expected}"),
            Self::Wrong { key, expected, found } => write!(f, "{key}: expected {expected}, found {found}"),
            Self::TooNew => f.write_str("Extra.version: a newer start-worker wrote it; start that one again"),
            Self::OriginsDoNotFit { origins, files } => {
                write!(f, "Extra.fileOrigins: expected one item for each of Files ({files}), found {origins}")
            }
        }
    }
}

impl CacheError {
    pub(super) fn new(path: &Path, problem: Problem) -> Self {
        Self { path: path.to_owned(), problem }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn kind(&self) -> CacheErrorKind {
        match &self.problem {
            Problem::File(error) if error.kind() == private_file::ErrorKind::Permissions => {
                CacheErrorKind::Permissions
            }
            Problem::File(_) => CacheErrorKind::Unreadable,
            _ => CacheErrorKind::Content,
        }
    }

    /// Advice for starting afresh. `dynamic`: the provider is a cloud, where a machine can register only once.
    pub fn advice(&self, dynamic: bool) -> &'static str {
        match (dynamic, self.kind()) {
            (false, CacheErrorKind::Permissions) => "or remove it to start afresh",
            (false, _) => "remove it to start afresh",
            (true, CacheErrorKind::Permissions) => {
                "do not remove it: this machine has registered already and cannot do so again"
            }
            (true, _) => {
                "removing it would not help: this machine has registered already and cannot do so again; \
                 replace the machine"
            }
        }
    }
}
