//! Files that are replaced whole: written beside their target, and renamed over it.
//!
//! A crash, at whatever moment, leaves the old file or the new one. All work is done relative to an open directory, so
//! that nobody can exchange the directory in between, and what is at the target is never followed or written to.
//! (Therefore not the `tempfile` crate, which works with paths.)

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::signal::kill;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};

#[cfg(test)]
mod tests;

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
    directory.replace(name, attributes, |file| file.write_all(content))?;
    directory.sync()
}

/// Removes the file at `path`, itself where it is a symlink. When this returns without an error, it is gone from the
/// disk, or was never there.
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
        Err(error) => Err(failed(error.into())),
    }
}

/// Removes what processes of this program that were killed while they wrote have left in `folder`. What cannot be
/// removed stays: it is in nobody's way.
pub fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let writer = entry.file_name().to_str().and_then(writer_of);
        if writer.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Who writes the temporary file of this name.
fn writer_of(name: &str) -> Option<i32> {
    let (pid, number) = name.strip_prefix(".start-worker-")?.strip_suffix(".tmp")?.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok().filter(|pid| *pid > 0)
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
        let (temporary, mut new) = self.temporary_file().map_err(failed("make a file beside", &path))?;
        let replaced = fill(&mut new)
            .map_err(failed("write", &path))
            .and_then(|()| dress(&new, attributes).map_err(failed("set owner and mode of", &path)))
            .and_then(|()| new.sync_all().map_err(failed("bring to the disk", &path)))
            .and_then(|()| {
                renameat(&self.handle, temporary.as_os_str(), &self.handle, name)
                    .map_err(|error| failed("put a new file in the place of", &path)(error.into()))
            });
        if replaced.is_err() {
            // The first failure is the one to tell.
            let _ = unlinkat(&self.handle, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        replaced
    }

    /// Brings the directory's entries to the disk.
    pub fn sync(&self) -> Result<(), WriteError> {
        self.handle.sync_all().map_err(failed("bring to the disk", &self.path))
    }

    /// A new file that only its owner may open.
    fn temporary_file(&self) -> io::Result<(OsString, File)> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        loop {
            // Names of a killed process with the same id may still be there.
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = OsString::from(format!(".start-worker-{}-{number}.tmp", std::process::id()));
            match openat(&self.handle, name.as_os_str(), flags, Mode::from_bits_truncate(0o600)) {
                Ok(file) => return Ok((name, file.into())),
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
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
