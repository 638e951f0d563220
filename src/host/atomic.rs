//! Files that are replaced whole: written beside their target, and renamed over it.
//!
//! A crash, at whatever moment, leaves the old file or the new one. All work is done relative to an open directory, so
//! that nobody can exchange the directory in between, and what is at the target is never followed or written to.
//! (Therefore not the `tempfile` crate, which works with paths.)
//!
//! One exception: a file that cannot be replaced, because it is a mount point of its own or because its directory is
//! read-only, is written in place if it is a regular file of ours ([`in_place`]).
//!
//! A file that is being written has no name where the file system supports that ([`draft`]), so a killed process leaves
//! nothing behind. What can be left behind anyway is removed at the next write to the directory ([`Directory::sweep`]).

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

/// What could not be done, and on which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct WriteError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl WriteError {
    /// What the operating system says.
    pub fn io(&self) -> &io::Error {
        &self.source
    }
}

/// What a written file is given. What the file had before is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Its permissions, whatever the umask.
    pub mode: u32,
    /// Its owner; `None`: us.
    pub owner: Option<Owner>,
}

/// A file's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Replaces the file at `path` by one with this content; directories that are missing on the way are made with the
/// mode `parents`. When this returns without an error, the file is on the disk.
///
/// # Errors
///
/// It cannot be written. Then the old file is there unchanged, and nothing is left behind.
pub fn replace(path: &Path, content: &[u8], attributes: Attributes, parents: u32) -> Result<(), WriteError> {
    let Some(name) = path.file_name() else {
        return Err(failed("write", path)(nameless()));
    };
    let directory = Directory::create(parent_of(path), parents)?;
    directory.sweep(attributes.owner);
    directory.replace(name, attributes, |file| file.write_all(content))?;
    directory.sync()
}

/// Removes the file at `path`, itself where it is a symlink. When this returns without an error, it is gone from the
/// disk, or was never there. A file of ours that cannot be removed because it is a mount point of its own is emptied.
///
/// # Errors
///
/// It cannot be removed.
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

/// Whether something is mounted at `path` itself.
pub fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Removes the temporary files that killed processes of this program have left in `folder`: see [`Directory::sweep`].
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

/// The directory that `path` is in; `.` for a mere name.
pub fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An open directory. It stays the same directory whatever happens to its path.
#[derive(Debug)]
pub struct Directory {
    handle: File,
    path: PathBuf,
}

impl Directory {
    /// Opens a directory; symlinks are followed.
    pub fn open(path: &Path) -> Result<Self, WriteError> {
        let flags = OFlag::O_DIRECTORY.bits();
        let handle = OpenOptions::new().read(true).custom_flags(flags).open(path);
        Ok(Self { handle: handle.map_err(failed("open the directory", path))?, path: path.to_owned() })
    }

    /// Opens a directory, after making what is missing of it and of its parents with this mode, whatever the umask;
    /// symlinks are followed.
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

    /// Opens the directory `name` in this one, after making it with this mode where there is none. A symlink is
    /// refused.
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

    /// Sets the directory's permissions.
    pub fn set_mode(&self, mode: u32) -> Result<(), WriteError> {
        let set = self.handle.set_permissions(Permissions::from_mode(mode));
        set.map_err(failed("set the mode of", &self.path))
    }

    /// Replaces the file `name` in this directory by one that `fill` writes. A symlink of that name is replaced, too.
    /// The content is on the disk when this returns, the name only after [`Directory::sync`].
    ///
    /// # Errors
    ///
    /// It cannot be written, or `fill` has failed. Then the old file is there unchanged, and nothing is left behind.
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

    /// Removes the temporary files that killed processes of this program have left in this directory: by name, if they
    /// are regular files of ours or of `owner`. A file that a process, in whichever container, is still writing is
    /// locked, and stays. So does a file that cannot be removed.
    pub fn sweep(&self, owner: Option<Owner>) {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return };
        let names = entries.flatten().map(|entry| entry.file_name());
        for name in names.filter(|name| draft::is_temporary(name)) {
            draft::remove_abandoned(self, &name, owner);
        }
    }

    /// Brings the directory's entries to the disk.
    pub fn sync(&self) -> Result<(), WriteError> {
        self.handle.sync_all().map_err(failed("bring to the disk", &self.path))
    }
}

/// Whether a file is one that this process may take for its own work: it is ours, or its intended owner's.
fn is_ours(file: &std::fs::Metadata, owner: Option<Owner>) -> bool {
    let uid = file.uid();
    file.is_file() && (uid == nix::unistd::geteuid().as_raw() || owner.is_some_and(|owner| owner.uid == uid))
}

fn dress(file: &File, attributes: Attributes) -> io::Result<()> {
    // The owner first: a change of owner may take mode bits away.
    if let Some(owner) = attributes.owner {
        fchown(file, Some(owner.uid), Some(owner.gid))?;
    }
    file.set_permissions(Permissions::from_mode(attributes.mode))
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> WriteError + 'a {
    move |source| WriteError { doing, path: path.to_owned(), source }
}
