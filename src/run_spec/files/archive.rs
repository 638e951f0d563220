//! Zip archives: validated to the last byte, then unpacked into one directory and nowhere else.
//!
//! Write access below that directory does not help an attacker while an archive is unpacked: every directory on the way
//! is opened relative to its parent, without following symlinks, and files are renamed into the opened directory. Only
//! the path to the directory itself is resolved by the system, symlinks included.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;

use crate::host::atomic::{self, Attributes, Directory, WriteError};

/// Limits for the content of an archive.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The number of files and directories.
    pub entries: usize,
    /// The unpacked size.
    pub bytes: u64,
}

pub(super) const LIMITS: Limits = Limits { entries: 100_000, bytes: 4 << 30 };

/// The file type bits of a Unix mode, and their values; the same on all systems.
const KIND: u32 = 0o170_000;
const SYMLINK: u32 = 0o120_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// The reason why an archive is refused, or could not be unpacked.
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

/// A validated archive.
pub(super) struct Archive {
    zip: ZipArchive<Cursor<Vec<u8>>>,
    /// Index in the archive, path and mode of each file.
    files: Vec<(usize, PathBuf, u32)>,
    /// The directories below the archive's root, with their recorded modes.
    directories: BTreeMap<PathBuf, u32>,
}

impl Archive {
    /// Validates the whole archive: names, sizes and kinds, and, by decompressing everything once, checksums and actual
    /// sizes.
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
        // The zip crate stops at an entry's declared size; this check holds if a version of it does not.
        let mut left = limits.bytes;
        for (index, ..) in &archive.files {
            let size = inflate(&mut archive.zip, *index, left + 1)?;
            left = left
                .checked_sub(size)
                .ok_or_else(|| too_much("the zip archive unpacks to more than it claims".to_owned()))?;
        }
        Ok(archive)
    }

    /// Adds an entry, by its name and kind.
    fn add(&mut self, index: usize) -> Result<(), ArchiveError> {
        let entry = self.zip.by_index_data(index).map_err(ArchiveError::Broken)?;
        let name = entry.name().map_err(ArchiveError::Broken)?.into_owned();
        let Some(path) = path_below(&name) else { return Err(ArchiveError::Outside(name)) };
        // The creating system in the archive is ignored, because these bits only ever contain Unix modes.
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

    /// The paths of the files, relative to the archive's root.
    pub(super) fn inner_files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(_, path, _)| path.as_path())
    }

    /// The directories below the archive's root.
    pub(super) fn inner_directories(&self) -> impl Iterator<Item = &Path> {
        self.directories.keys().map(PathBuf::as_path)
    }

    /// The directories in which the archive in these bytes has files, including its root (an empty path). Nothing is
    /// decompressed; a broken archive yields none.
    pub(super) fn directories(bytes: Vec<u8>) -> BTreeSet<PathBuf> {
        let Ok(zip) = ZipArchive::new(Cursor::new(bytes)) else { return BTreeSet::new() };
        let paths = zip.file_names().filter_map(|name| path_below(&name.ok()?));
        paths.filter_map(|path| path.parent().map(Path::to_owned)).collect()
    }

    /// Refuses obstacles to unpacking below `root`: symlinks, and files in place of directories.
    pub(super) fn check_target(&self, root: &Path) -> Result<(), ArchiveError> {
        // Removes a trailing slash, with which a symlink would be followed.
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

    /// Unpacks everything below `root`. Each file is written completely or not at all.
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
        // Modes are set last, the deepest directory first, because a mode can forbid further access.
        for (path, mode) in self.directories.iter().rev() {
            within(&top, path, |directory| {
                directory.set_mode(*mode)?;
                directory.sync()
            })?;
        }
        Ok(top.sync()?)
    }
}

/// Runs `work` in a directory below `top`, after creating it and its missing parents.
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

/// The path of an entry relative to the archive's root; `None` if it would leave the root, here or on other systems. (A
/// backslash separates names on other systems: an archive with one was not made for this system.)
fn path_below(name: &str) -> Option<PathBuf> {
    if name.starts_with('/') || name.contains(['\\', '\0']) {
        return None;
    }
    let names = name.split('/').filter(|part| !part.is_empty() && *part != ".");
    names.map(|part| (part != "..").then_some(OsStr::new(part))).collect()
}

/// Reads an entry to its end, to verify its checksum, or until it is too large. Returns its actual size.
fn inflate(zip: &mut ZipArchive<Cursor<Vec<u8>>>, index: usize, most: u64) -> Result<u64, ArchiveError> {
    let name = zip.by_index_data(index).and_then(|entry| Ok(entry.name()?.into_owned()));
    let name = name.map_err(ArchiveError::Broken)?;
    match zip.by_index(index) {
        Ok(entry) => io::copy(&mut entry.take(most), &mut io::sink())
            .map_err(|source| ArchiveError::Unreadable { entry: name, source }),
        Err(source) => Err(ArchiveError::BrokenEntry { entry: name, source }),
    }
}
