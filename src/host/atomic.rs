//! Files that are replaced as a whole: a new file is written beside the target and renamed over it.
//!
//! A crash at any moment leaves either the old file or the new one. All work is done relative to an open directory, so
//! that nobody can exchange the directory in between, and whatever is at the target is never followed or written to.
//! (The `tempfile` crate works with paths and is therefore unsuitable.)
//!
//! One exception: a regular file of ours that cannot be replaced, because it is itself a mount point or because its
//! directory is read-only, is written in place ([`in_place`]).
//!
//! A file that is being written has no name where the file system supports that ([`draft`]), so a killed process leaves
//! nothing behind. Leftovers from other file systems are removed at the next write to the directory
//! ([`Directory::sweep`]).

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

mod draft;
mod in_place;
#[cfg(test)]
mod tests;

use draft::Draft;

/// The failed operation and its file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct WriteError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl WriteError {
    pub fn io(&self) -> &io::Error {
        &self.source
    }
}

/// Attributes of a written file. The previous file's attributes are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions, independent of the umask.
    pub mode: u32,
    /// `None`: this process's user and group.
    pub owner: Option<Owner>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// Replaces the file at `path` by one with this content. Missing directories on the way are created with the mode
/// `parents`. The file is on the disk when this returns `Ok`. On failure, the old file is unchanged, and nothing is
/// left behind.
pub fn replace(path: &Path, content: &[u8], attributes: Attributes, parents: u32) -> Result<(), WriteError> {
    let Some(name) = path.file_name() else {
        return Err(failed("write", path)(nameless()));
    };
    let directory = Directory::create(parent_of(path), parents)?;
    directory.sweep(attributes.owner);
    directory.replace(name, attributes, |file| file.write_all(content))?;
    directory.sync()
}

/// Removes the file at `path`; a symlink is removed itself. When this returns `Ok`, the removal is on the disk, or the
/// file never existed. A file of ours that cannot be removed because it is itself a mount point is emptied.
pub fn remove(path: &Path) -> Result<(), WriteError> {
    let failed = failed("remove", path);
    let directory = match Directory::open(parent_of(path)) {
        Err(error) if is_not_there(error.source.kind()) => return Ok(()),
        result => result?,
    };
    let Some(name) = path.file_name() else { return Err(failed(nameless())) };
    match unlinkat(&directory.handle, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => directory.sync(),
        Err(Errno::ENOENT) => Ok(()),
        Err(error @ Errno::EBUSY) => in_place::empty(&directory, name).map_err(|_| failed(error.into())),
        Err(error) => Err(failed(error.into())),
    }
}

/// Returns true if something is mounted at `path` itself.
pub fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Removes the temporary files that killed processes of this program left in `folder`; see [`Directory::sweep`].
pub fn sweep(folder: &Path) {
    if let Ok(directory) = Directory::open(folder) {
        directory.sweep(None);
    }
}

fn is_not_there(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn nameless() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the path does not end with a file's name")
}

/// The directory that contains `path`; `.` for a bare file name.
pub fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An open directory. It remains the same directory whatever happens to its path.
#[derive(Debug)]
pub struct Directory {
    handle: File,
    path: PathBuf,
}

impl Directory {
    /// Opens a directory. Symlinks are followed.
    pub fn open(path: &Path) -> Result<Self, WriteError> {
        let flags = OFlag::O_DIRECTORY.bits();
        let handle = OpenOptions::new().read(true).custom_flags(flags).open(path);
        Ok(Self { handle: handle.map_err(failed("open the directory", path))?, path: path.to_owned() })
    }

    /// Opens a directory, after creating it and its missing parents with this mode, independent of the umask. Symlinks
    /// are followed.
    pub fn create(path: &Path, mode: u32) -> Result<Self, WriteError> {
        match Self::open(path) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
            settled => return settled,
        }
        let parent = parent_of(path);
        if parent != path {
            Self::create(parent, mode)?;
        }
        match DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Self::open(path),
            result => result.map_err(failed("make the directory", path))?,
        }
        let directory = Self::open(path)?;
        directory.set_mode(mode)?;
        Self::open(parent)?.sync()?;
        Ok(directory)
    }

    /// Opens the directory `name` in this one, and creates it with this mode if it is missing. Refuses a symlink.
    pub fn child(&self, name: &OsStr, mode: u32) -> Result<Self, WriteError> {
        let path = self.path.join(name);
        let is_new = match mkdirat(&self.handle, name, Mode::from_bits_truncate(0o700)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(error) => return Err(failed("make the directory", &path)(error.into())),
        };
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(&self.handle, name, flags, Mode::empty());
        let handle =
            opened.map_err(|error| failed("open, without following symlinks,", &path)(error.into()))?;
        let child = Self { handle: handle.into(), path };
        if is_new {
            child.set_mode(mode)?;
        }
        Ok(child)
    }

    pub fn set_mode(&self, mode: u32) -> Result<(), WriteError> {
        let set = self.handle.set_permissions(Permissions::from_mode(mode));
        set.map_err(failed("set the mode of", &self.path))
    }

    /// Replaces the file `name` in this directory by one that `fill` writes. A symlink of that name is replaced, too.
    /// The content is on the disk when this returns, the name only after [`Directory::sync`]. On failure, also of
    /// `fill`, the old file is unchanged, and nothing is left behind.
    pub fn replace(
        &self,
        name: &OsStr,
        attributes: Attributes,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), WriteError> {
        let path = self.path.join(name);
        let mut draft = match Draft::new(self) {
            Ok(draft) => draft,
            Err(cause) if in_place::may_help(&cause) => {
                return in_place::write(self, (name, attributes), &cause, 0, fill)
                    .unwrap_or(Err(cause))
                    .map_err(failed("make a file beside", &path));
            }
            Err(cause) => return Err(failed("make a file beside", &path)(cause)),
        };
        fill(draft.file()).map_err(failed("write", &path))?;
        dress(draft.file(), attributes).map_err(failed("set owner and mode of", &path))?;
        draft.file().sync_all().map_err(failed("bring to the disk", &path))?;
        let Err(cause) = draft.publish(name, attributes) else { return Ok(()) };
        let written = if in_place::may_help(&cause) {
            let length = draft.length();
            in_place::write(self, (name, attributes), &cause, length, |file| draft.copy_to(file).map(drop))
        } else {
            None
        };
        written.unwrap_or(Err(cause)).map_err(failed("put a new file in the place of", &path))
    }

    /// Removes the temporary files that killed processes of this program left in this directory: those with a draft's
    /// name that are regular files of ours or of `owner`. A file that a process in any container is still writing is
    /// locked and is not removed. A file that cannot be removed is skipped.
    pub fn sweep(&self, owner: Option<Owner>) {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return };
        let names = entries.flatten().map(|entry| entry.file_name());
        for name in names.filter(|name| draft::is_temporary(name)) {
            draft::remove_abandoned(self, &name, owner);
        }
    }

    /// Flushes the directory's entries to the disk.
    pub fn sync(&self) -> Result<(), WriteError> {
        self.handle.sync_all().map_err(failed("bring to the disk", &self.path))
    }
}

/// Returns true if this process may treat the file as its own work: its owner is this process's user or the intended
/// owner.
fn is_ours(file: &std::fs::Metadata, owner: Option<Owner>) -> bool {
    let uid = file.uid();
    file.is_file() && (uid == nix::unistd::geteuid().as_raw() || owner.is_some_and(|owner| owner.uid == uid))
}

fn dress(file: &File, attributes: Attributes) -> io::Result<()> {
    // The owner is set first, because a change of owner can clear mode bits.
    if let Some(owner) = attributes.owner {
        fchown(file, Some(owner.uid), Some(owner.gid))?;
    }
    file.set_permissions(Permissions::from_mode(attributes.mode))
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> WriteError + 'a {
    move |source| WriteError { doing, path: path.to_owned(), source }
}
