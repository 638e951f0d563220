//! Files that are part of the worker configuration and are written before the worker starts.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};

use crate::host::atomic::{self, Attributes, Directory, WriteError, parent_of};
use crate::redact::Secrets;
pub use archive::Limits;

use archive::{Archive, ArchiveError, LIMITS};
use places::{Conflict, Places, Wanted, true_path};

mod archive;
mod places;
#[cfg(test)]
mod tests;

/// Base64 as Go reads it, because existing files were made for Go: excess bits after the last byte are ignored, and so
/// are line ends (see [`decode`]).
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// A file as the provider or a secret describes it, not validated yet. Its keys are those of the cache file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// A description for people; may be empty.
    #[serde(default)]
    pub description: String,
    /// The path of the file, or of the directory into which a `zip` is unpacked.
    pub path: String,
    /// The encoded content.
    pub content: String,
    /// The encoding of `content`: `base64`.
    pub encoding: String,
    /// The format of the content: `file` or `zip`.
    pub format: String,
}

impl FileEntry {
    /// Adds the content to the known secrets, both encoded and decoded.
    pub fn add_to(&self, secrets: &Secrets) {
        secrets.add(&self.content);
        if let Ok(Ok(text)) = decode(&self.content).map(String::from_utf8) {
            secrets.add_file(&text);
        }
    }
}

/// Omits the content, because it may be secret.
impl fmt::Debug for FileEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileEntry")
            .field("path", &self.path)
            .field("description", &self.description)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// A file and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShippedFile {
    pub entry: FileEntry,
    pub origin: FileOrigin,
}

impl ShippedFile {
    fn wanted(&self) -> Wanted<'_> {
        Wanted { path: &self.entry.path, origin: self.origin }
    }

    /// Returns true if both files write the same content in the same way to the same place.
    fn is_same_as(&self, other: &Self) -> bool {
        let path = |file: &Self| true_path(Path::new(&file.entry.path));
        self.origin == other.origin
            && self.entry.format == other.entry.format
            && self.entry.content == other.entry.content
            && path(self) == path(other)
    }
}

/// The origin of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileOrigin {
    /// The provider: everybody who can read the pool's definition can read the file.
    Provider,
    /// A secret.
    Secret,
}

/// The reason why a file cannot be written. Never shows its content.
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
    #[error("it and the file {other:?} are to be written to {}, with different content", at.display())]
    Twice { at: PathBuf, other: String },
    #[error("{} would be a file and a directory: the file {other:?} goes there, too", at.display())]
    Kinds { at: PathBuf, other: String },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<Conflict> for Fault {
    fn from(Conflict { at, other, is_about_kind }: Conflict) -> Self {
        if is_about_kind { Self::Kinds { at, other } } else { Self::Twice { at, other } }
    }
}

/// A validated file that can be written.
enum Checked<'a> {
    File { path: &'a Path, content: Vec<u8>, mode: u32 },
    Zip { root: &'a Path, archive: Archive },
}

/// Writes all files, in order. Before the first one is written, all are decoded and validated, archives to their last
/// byte; their paths must not conflict with each other. Blocks on disks and on decompression.
///
/// # Errors
///
/// The first file that is invalid or cannot be written; configuration.md lists the reasons.
pub fn write_all(files: &[ShippedFile]) -> Result<(), FileError> {
    write_within(files, &LIMITS)
}

/// As [`write_all`], with other limits for archives.
pub fn write_within(files: &[ShippedFile], limits: &Limits) -> Result<(), FileError> {
    let mut ready: Vec<(&FileEntry, Checked<'_>)> = Vec::with_capacity(files.len());
    let mut places = Places::default();
    for (index, file) in files.iter().enumerate() {
        let checked = check(file, limits).map_err(|fault| fault.of(&file.entry))?;
        if !files.iter().take(index).any(|earlier| file.is_same_as(earlier)) {
            checked.take_places(&mut places, file.wanted()).map_err(|fault| fault.of(&file.entry))?;
        }
        ready.push((&file.entry, checked));
    }
    for directory in directories(files) {
        atomic::sweep(&directory);
    }
    for (entry, checked) in ready {
        checked.write().map_err(|fault| fault.of(entry))?;
        let FileEntry { path, description, format, .. } = entry;
        tracing::info!(name: "file-written", path, description, format, "wrote a file that came with the worker configuration");
    }
    Ok(())
}

/// The directories to which these files are written.
pub fn directories(files: &[ShippedFile]) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    for FileEntry { path, content, format, .. } in files.iter().map(|file| &file.entry) {
        let path = Path::new(path);
        if format == "zip" {
            let names = decode(content).map(Archive::directories).unwrap_or_default();
            directories.extend(names.into_iter().map(|name| path.join(name)));
        } else {
            directories.insert(parent_of(path).to_owned());
        }
    }
    directories
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

/// Checks that the directories above `path` exist or can be created.
fn check_way(path: &Path) -> Result<(), Fault> {
    for above in path.ancestors().skip(1) {
        match fs::metadata(above) {
            Ok(metadata) if metadata.is_dir() => return Ok(()),
            Ok(_) => return Err(Fault::FileOnTheWay(above.to_owned())),
            Err(_) if above.is_symlink() => return Err(Fault::DanglingOnTheWay(above.to_owned())),
            // Missing, or below something that is not a directory.
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
    fn take_places<'a>(&self, places: &mut Places<'a>, wanted_by: Wanted<'a>) -> Result<(), Fault> {
        match self {
            Self::File { path, .. } => places.add_file(&true_path(path), wanted_by)?,
            Self::Zip { root, archive } => {
                let root = true_path(root);
                places.add_directory(&root, wanted_by)?;
                for directory in archive.inner_directories() {
                    places.add_directory(&root.join(directory), wanted_by)?;
                }
                for file in archive.inner_files() {
                    places.add_file(&root.join(file), wanted_by)?;
                }
            }
        }
        Ok(())
    }

    fn write(self) -> Result<(), Fault> {
        match self {
            Self::File { path, content, mode } => {
                let Some(name) = path.file_name() else { return Err(Fault::Nameless) };
                let directory = Directory::create(parent_of(path), 0o755)?;
                let attributes = Attributes { mode, owner: None };
                directory.replace(name, attributes, |file| file.write_all(&content))?;
                Ok(directory.sync()?)
            }
            Self::Zip { root, archive } => Ok(archive.extract(root)?),
        }
    }
}
