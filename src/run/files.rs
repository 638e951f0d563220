//! Files that come with the worker configuration and are written before the worker starts.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};

use crate::host::atomic::{self, Attributes, WriteError};
pub use archive::Limits;

use archive::{Archive, ArchiveError, LIMITS};

mod archive;
#[cfg(test)]
mod tests;

/// Base64 as Go reads it, for which existing files were made: bits beyond the last byte do not matter, nor (see
/// [`decode`]) do line ends.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

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

/// A file that cannot be written, and why. It never shows content.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the file {path:?} that came with the worker configuration{}", described(description))]
pub struct FileError {
    path: String,
    description: String,
    source: Fault,
}

fn described(description: &str) -> String {
    if description.is_empty() { String::new() } else { format!(" ({description:?})") }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("unknown encoding {0:?}: only base64 is known")]
    Encoding(String),
    #[error("unknown format {0:?}: file and zip are known")]
    Format(String),
    #[error("the content is not base64")]
    Base64,
    #[error("the path does not name a file")]
    Nameless,
    #[error("there is a directory of that name")]
    Directory,
    #[error("{} is not a directory", .0.display())]
    FileOnTheWay(PathBuf),
    #[error("{} is a symlink to nothing", .0.display())]
    DanglingOnTheWay(PathBuf),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A file that has been looked at and can be written.
enum Checked<'a> {
    File { path: &'a Path, content: Vec<u8>, mode: u32 },
    Zip { root: &'a Path, archive: Archive },
}

/// Writes all files, in order. All are decoded and checked, archives to their last byte, before the first is written.
/// (Blocks: on disks and on inflating.)
///
/// # Errors
///
/// The first file that is wrong or cannot be written; see configuration.md for what is refused.
pub fn write_all(files: &[ShippedFile]) -> Result<(), FileError> {
    write_within(files, &LIMITS)
}

/// As [`write_all`], with archives of another size.
///
/// # Errors
///
/// As there.
pub fn write_within(files: &[ShippedFile], limits: &Limits) -> Result<(), FileError> {
    let mut ready = Vec::with_capacity(files.len());
    for file in files {
        let checked = check(file, limits).map_err(|fault| fault.of(&file.entry))?;
        ready.push((&file.entry, checked));
    }
    for (entry, checked) in ready {
        checked.write().map_err(|fault| fault.of(entry))?;
        let FileEntry { path, description, format, .. } = entry;
        tracing::info!(path, description, format, "wrote a file that came with the worker configuration");
    }
    Ok(())
}

impl Fault {
    fn of(self, entry: &FileEntry) -> FileError {
        FileError { path: entry.path.clone(), description: entry.description.clone(), source: self }
    }
}

fn check<'a>(file: &'a ShippedFile, limits: &Limits) -> Result<Checked<'a>, Fault> {
    let entry = &file.entry;
    if entry.encoding != "base64" {
        return Err(Fault::Encoding(entry.encoding.clone()));
    }
    let path = Path::new(&entry.path);
    if entry.path.is_empty() || entry.path.contains('\0') {
        return Err(Fault::Nameless);
    }
    check_way(path)?;
    match entry.format.as_str() {
        "file" => {
            if path.file_name().is_none() {
                return Err(Fault::Nameless);
            }
            if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
                return Err(Fault::Directory);
            }
            let mode = match file.origin {
                FileOrigin::Provider => 0o755,
                FileOrigin::Secret => 0o600,
            };
            Ok(Checked::File { path, content: decode(&entry.content)?, mode })
        }
        "zip" => {
            let archive = Archive::check(decode(&entry.content)?, limits)?;
            archive.check_target(path)?;
            Ok(Checked::Zip { root: path, archive })
        }
        _ => Err(Fault::Format(entry.format.clone())),
    }
}

/// Whether the directories above `path` are there or can be made.
fn check_way(path: &Path) -> Result<(), Fault> {
    for above in path.ancestors().skip(1) {
        match fs::metadata(above) {
            Ok(metadata) if metadata.is_dir() => return Ok(()),
            Ok(_) => return Err(Fault::FileOnTheWay(above.to_owned())),
            Err(_) if above.is_symlink() => return Err(Fault::DanglingOnTheWay(above.to_owned())),
            // Missing, or below something that is no directory.
            Err(_) => {}
        }
    }
    Ok(())
}

fn decode(content: &str) -> Result<Vec<u8>, Fault> {
    // The decoder's own message would show a byte of the content.
    let decoded = if content.contains(['\r', '\n']) {
        BASE64.decode(content.replace(['\r', '\n'], ""))
    } else {
        BASE64.decode(content)
    };
    decoded.map_err(|_| Fault::Base64)
}

impl Checked<'_> {
    fn write(self) -> Result<(), Fault> {
        match self {
            Self::File { path, content, mode } => {
                Ok(atomic::replace(path, &content, Attributes { mode, owner: None }, 0o755)?)
            }
            Self::Zip { root, archive } => Ok(archive.extract(root)?),
        }
    }
}
