//! Zip archives: checked to the last byte, then unpacked below one directory and nowhere else.
//!
//! Whoever can write below that directory while an archive is unpacked gains nothing: every directory on the way is
//! opened relative to the one above it, without following symlinks, and files are renamed into the directory so
//! opened. Only the way to the directory itself is taken as the system has it, symlinks included.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;

use crate::host::atomic::{self, Attributes, Directory, WriteError};

/// How much an archive may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Files and directories.
    pub entries: usize,
    /// When unpacked.
    pub bytes: u64,
}

/// What is allowed.
pub(super) const LIMITS: Limits = Limits { entries: 100_000, bytes: 4 << 30 };

/// The bits of a Unix mode that tell the kind of file, and their values; the same on all systems.
const KIND: u32 = 0o170_000;
const SYMLINK: u32 = 0o120_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// Why an archive is refused, or could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    #[error("the zip archive is broken")]
    Broken(#[source] ZipError),
    #[error("the zip archive is broken, in {entry:?}")]
    BrokenEntry { entry: String, source: ZipError },
    #[error("the zip archive is broken: {entry:?} cannot be unpacked")]
    Unreadable { entry: String, source: io::Error },
    #[error("{what}; at most {} entries and {} bytes unpacked are allowed", limits.entries, limits.bytes)]
    TooMuch { what: String, limits: Limits },
    #[error("{0:?} in the zip archive would not land below its directory")]
    Outside(String),
    #[error("{0:?} in the zip archive is a symlink; symlinks are refused")]
    Symlink(String),
    #[error("{0:?} in the zip archive is neither a file nor a directory")]
    Special(String),
    #[error("{0:?} in the zip archive is a file, and has entries below it")]
    Both(PathBuf),
    #[error("{0:?} in the zip archive is there twice")]
    Twice(PathBuf),
    #[error("{} is a symlink; zip archives are not unpacked through symlinks", .0.display())]
    SymlinkOnTheWay(PathBuf),
    #[error("{} is not a directory", .0.display())]
    FileOnTheWay(PathBuf),
    #[error("{} is a directory", .0.display())]
    DirectoryInTheWay(PathBuf),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// An archive that can be unpacked.
pub(super) struct Archive {
    zip: ZipArchive<Cursor<Vec<u8>>>,
    /// By their place in the archive.
    files: Vec<(usize, PathBuf, u32)>,
    /// The directories below the archive's own, with the mode recorded for them.
    directories: BTreeMap<PathBuf, u32>,
}

impl Archive {
    /// Reads all of it: names, sizes, kinds, and, by inflating everything once, checksums and true sizes.
    pub(super) fn check(bytes: Vec<u8>, limits: &Limits) -> Result<Self, ArchiveError> {
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(ArchiveError::Broken)?;
        let too_much = |what| ArchiveError::TooMuch { what, limits: *limits };
        if zip.len() > limits.entries {
            return Err(too_much(format!("the zip archive has {} entries", zip.len())));
        }
        let mut claimed: u64 = 0;
        for index in 0..zip.len() {
            let size = zip.by_index_data(index).map_err(ArchiveError::Broken)?.size();
            claimed = claimed.saturating_add(size);
        }
        if claimed > limits.bytes {
            return Err(too_much(format!("the zip archive unpacks to {claimed} bytes")));
        }
        let mut archive = Self { zip, files: Vec::new(), directories: BTreeMap::new() };
        for index in 0..archive.zip.len() {
            archive.add(index)?;
        }
        if let Some((_, path, _)) =
            archive.files.iter().find(|(_, path, _)| archive.directories.contains_key(path))
        {
            return Err(ArchiveError::Both(path.clone()));
        }
        let mut paths = BTreeSet::new();
        if let Some((_, path, _)) = archive.files.iter().find(|(_, path, _)| !paths.insert(path)) {
            return Err(ArchiveError::Twice(path.clone()));
        }
        // The zip crate stops at a size that an entry has not declared; this holds if it ever does not.
        let mut left = limits.bytes;
        for (index, ..) in &archive.files {
            let size = inflate(&mut archive.zip, *index, left + 1)?;
            left = left
                .checked_sub(size)
                .ok_or_else(|| too_much("the zip archive unpacks to more than it claims".to_owned()))?;
        }
        Ok(archive)
    }

    /// Sorts an entry in, by its name and kind.
    fn add(&mut self, index: usize) -> Result<(), ArchiveError> {
        let entry = self.zip.by_index_data(index).map_err(ArchiveError::Broken)?;
        let name = entry.name().map_err(ArchiveError::Broken)?.into_owned();
        let Some(path) = path_below(&name) else { return Err(ArchiveError::Outside(name)) };
        // Whatever system the archive says it was made on: only Unix modes are ever found in these bits.
        let recorded = entry.external_attributes() >> 16;
        let mode = |default| if recorded == 0 { default } else { recorded & 0o777 };
        let is_directory = match recorded & KIND {
            SYMLINK => return Err(ArchiveError::Symlink(name)),
            DIRECTORY => true,
            REGULAR | 0 => name.ends_with('/'),
            _ => return Err(ArchiveError::Special(name)),
        };
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            self.directories.entry(parent.to_owned()).or_insert(0o755);
        }
        if path.as_os_str().is_empty() {
            return if is_directory { Ok(()) } else { Err(ArchiveError::Outside(name)) };
        }
        if is_directory {
            self.directories.insert(path, mode(0o755));
        } else {
            self.files.push((index, path, mode(0o644)));
        }
        Ok(())
    }

    /// Where its files go, below the archive's directory.
    pub(super) fn inner_files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(_, path, _)| path.as_path())
    }

    /// The directories below the archive's own.
    pub(super) fn inner_directories(&self) -> impl Iterator<Item = &Path> {
        self.directories.keys().map(PathBuf::as_path)
    }

    /// The directories that the archive of these bytes has files in, its own (an empty path) included. Nothing is
    /// inflated; what is broken has none.
    pub(super) fn directories(bytes: Vec<u8>) -> BTreeSet<PathBuf> {
        let Ok(zip) = ZipArchive::new(Cursor::new(bytes)) else { return BTreeSet::new() };
        let paths = zip.file_names().filter_map(|name| path_below(&name.ok()?));
        paths.filter_map(|path| path.parent().map(Path::to_owned)).collect()
    }

    /// Refuses what is in the way of unpacking below `root`: symlinks, and files where directories must be.
    pub(super) fn check_target(&self, root: &Path) -> Result<(), ArchiveError> {
        // Without a trailing slash, which would have a symlink followed.
        let root: PathBuf = root.components().collect();
        let below = self.directories.keys().map(|directory| root.join(directory));
        for directory in std::iter::once(root.clone()).chain(below) {
            match fs::symlink_metadata(&directory) {
                Ok(metadata) if metadata.is_symlink() => {
                    return Err(ArchiveError::SymlinkOnTheWay(directory));
                }
                Ok(metadata) if !metadata.is_dir() => return Err(ArchiveError::FileOnTheWay(directory)),
                _ => {}
            }
        }
        let in_the_way = self
            .files
            .iter()
            .map(|(_, path, _)| root.join(path))
            .find(|path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()));
        in_the_way.map_or(Ok(()), |path| Err(ArchiveError::DirectoryInTheWay(path)))
    }

    /// Unpacks everything below `root`, each file whole or not at all.
    pub(super) fn extract(mut self, root: &Path) -> Result<(), ArchiveError> {
        let top = match root.file_name() {
            Some(name) => {
                let parent = Directory::create(atomic::parent_of(root), 0o755)?;
                let top = parent.child(name, 0o755)?;
                parent.sync()?;
                top
            }
            None => Directory::open(root)?,
        };
        for directory in self.directories.keys() {
            within(&top, directory, |_| Ok(()))?;
        }
        for (index, path, mode) in &self.files {
            let mut entry = self.zip.by_index(*index).map_err(ArchiveError::Broken)?;
            let attributes = Attributes { mode: *mode, owner: None };
            let name = path.file_name().unwrap_or_default();
            within(&top, parent_below(path), |directory| {
                directory.replace(name, attributes, |file| io::copy(&mut entry, file).map(drop))
            })?;
        }
        // Modes last, the deepest directory first, for a mode can forbid to go on.
        for (path, mode) in self.directories.iter().rev() {
            within(&top, path, |directory| {
                directory.set_mode(*mode)?;
                directory.sync()
            })?;
        }
        Ok(top.sync()?)
    }
}

/// Does something in a directory below `top`, making it and those above it where they are missing.
fn within(
    top: &Directory,
    path: &Path,
    work: impl FnOnce(&Directory) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let mut at: Option<Directory> = None;
    for name in path {
        at = Some(at.as_ref().unwrap_or(top).child(name, 0o755)?);
    }
    work(at.as_ref().unwrap_or(top))
}

fn parent_below(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// The path of an entry, relative to the archive's directory; `None` where it would leave that, or does so on other
/// systems. (A backslash separates names there: an archive with one was not made for this system.)
fn path_below(name: &str) -> Option<PathBuf> {
    if name.starts_with('/') || name.contains(['\\', '\0']) {
        return None;
    }
    let names = name.split('/').filter(|part| !part.is_empty() && *part != ".");
    names.map(|part| (part != "..").then_some(OsStr::new(part))).collect()
}

/// Reads an entry to its end, for its checksum, or until it is too large. Returns its size as found, not as claimed.
fn inflate(zip: &mut ZipArchive<Cursor<Vec<u8>>>, index: usize, most: u64) -> Result<u64, ArchiveError> {
    let name = zip.by_index_data(index).and_then(|entry| Ok(entry.name()?.into_owned()));
    let name = name.map_err(ArchiveError::Broken)?;
    match zip.by_index(index) {
        Ok(entry) => io::copy(&mut entry.take(most), &mut io::sink())
            .map_err(|source| ArchiveError::Unreadable { entry: name, source }),
        Err(source) => Err(ArchiveError::BrokenEntry { entry: name, source }),
    }
}
