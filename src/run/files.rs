//! Files that come with the worker configuration and are written before the worker starts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A file as the provider or a secret describes it, not yet looked at. Its keys are those of the cache file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// What it is, for people; may be empty.
    #[serde(default)]
    pub description: String,
    /// Where it goes: a file, or the directory that a `zip` is unpacked into.
    pub path: String,
    /// Its content, encoded.
    pub content: String,
    /// How `content` is encoded: `base64`.
    pub encoding: String,
    /// What the content is: `file` or `zip`.
    pub format: String,
}

/// Leaves the content out: it may be secret.
impl fmt::Debug for FileEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileEntry")
            .field("path", &self.path)
            .field("description", &self.description)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// A file, and who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShippedFile {
    /// The file.
    pub entry: FileEntry,
    /// Who sent it.
    pub origin: FileOrigin,
}

/// Who has sent a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileOrigin {
    /// The provider: the file is public to those who can read the pool's definition.
    Provider,
    /// A secret.
    Secret,
}
