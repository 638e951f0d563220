//! Why a cache cannot be used, and what to do about it. No message shows a value of the cache.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::host::private_file;

/// Why a cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the cached run {}: {problem}", path.display())]
pub struct CacheError {
    path: PathBuf,
    problem: Problem,
}

/// What a [`CacheError`] is about, for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheErrorKind {
    /// Its permissions or its kind.
    Permissions,
    /// It could not be read, for no fault of its permissions.
    Unreadable,
    /// It was read, and is not a whole run.
    Content,
}

/// What is wrong. A key is given as the way to it: `Credentials.clientId`.
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
            // Without its name, which is told already.
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

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is about.
    pub fn kind(&self) -> CacheErrorKind {
        match &self.problem {
            Problem::File(error) if error.kind() == private_file::ErrorKind::Permissions => {
                CacheErrorKind::Permissions
            }
            Problem::File(_) => CacheErrorKind::Unreadable,
            _ => CacheErrorKind::Content,
        }
    }

    /// How to start afresh. `dynamic`: the host's provider is a cloud, where a machine can register only once.
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
