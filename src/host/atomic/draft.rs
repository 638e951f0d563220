//! A file that is being written: without a name until it is complete, where the file system supports that.
//!
//! `O_TMPFILE` creates a file without a name, which vanishes with the process; `linkat` gives it a name (`open(2)`
//! describes both). On other file systems the draft has a temporary name from the beginning. Each draft is locked
//! (`flock(2)`), so that [`remove_abandoned`] can tell a live draft from the leftover of a killed process: unlike a
//! process id, a lock ends with its process, and it works across PID namespaces.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::{Attributes, Directory, Owner, dress, is_ours};

const PREFIX: &str = ".start-worker-";
const SUFFIX: &str = ".tmp";

/// A file that is being written. It vanishes if it is dropped before it is published.
pub(super) struct Draft<'d> {
    directory: &'d Directory,
    file: File,
    /// `None`: the file has no name.
    name: Option<OsString>,
}

impl<'d> Draft<'d> {
    /// Creates a new, empty file that only its owner may open.
    pub(super) fn new(directory: &'d Directory) -> io::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        match openat(&directory.handle, ".", flags, private()) {
            Ok(file) => {
                let file = File::from(file);
                // The lock matters once the file has a temporary name. A file system without locks has no other
                // protection.
                let _ = file.try_lock();
                Ok(Self { directory, file, name: None })
            }
            // EISDIR and EINVAL: a kernel, or a FUSE file system, that ignores the flag.
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOSYS | Errno::ENOENT) => {
                Self::named(directory)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Creates a draft with a temporary name.
    pub(super) fn named(directory: &'d Directory) -> io::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        loop {
            let name = temporary_name();
            let file = match openat(&directory.handle, name.as_os_str(), flags, private()) {
                Ok(file) => File::from(file),
                Err(Errno::EEXIST) => continue,
                Err(error) => return Err(error.into()),
            };
            // Another process may have mistaken the file for abandoned before it was locked.
            let taken =
                matches!(file.try_lock(), Err(TryLockError::WouldBlock)) || file.metadata()?.nlink() == 0;
            if !taken {
                return Ok(Self { directory, file, name: Some(name) });
            }
        }
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Moves the file to `name`. On failure it remains a draft.
    pub(super) fn publish(&mut self, name: &OsStr, attributes: Attributes) -> io::Result<()> {
        if self.name.is_none() {
            match self.link(name) {
                Ok(()) => return Ok(()),
                Err(Errno::EEXIST) => self.take_temporary_name()?,
                Err(_) => self.copy_to_named(attributes)?,
            }
        }
        let Some(temporary) = &self.name else { return Err(io::ErrorKind::NotFound.into()) };
        renameat(&self.directory.handle, temporary.as_os_str(), &self.directory.handle, name)?;
        self.name = None;
        Ok(())
    }

    pub(super) fn length(&self) -> u64 {
        self.file.metadata().map(|found| found.len()).unwrap_or_default()
    }

    pub(super) fn copy_to(&mut self, target: &mut File) -> io::Result<u64> {
        self.file.rewind()?;
        io::copy(&mut self.file, target)
    }

    fn link(&self, name: &OsStr) -> nix::Result<()> {
        let this = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        linkat(AT_FDCWD, this.as_str(), &self.directory.handle, name, AtFlags::AT_SYMLINK_FOLLOW)
    }

    /// Gives the draft a temporary name: only a rename can replace a file, and only a file with a name can be renamed.
    fn take_temporary_name(&mut self) -> io::Result<()> {
        loop {
            let name = temporary_name();
            match self.link(&name) {
                Ok(()) => {
                    self.name = Some(name);
                    return Ok(());
                }
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Copies the content to a named draft. Used where a file without a name cannot get one, for example because
    /// `/proc` is not mounted.
    fn copy_to_named(&mut self, attributes: Attributes) -> io::Result<()> {
        let mut named = Self::named(self.directory)?;
        self.copy_to(&mut named.file)?;
        dress(&named.file, attributes)?;
        named.file.sync_all()?;
        *self = named;
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // The failure that led here is the one to report.
            let _ = unlinkat(&self.directory.handle, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn private() -> Mode {
    Mode::S_IRUSR | Mode::S_IWUSR
}

/// Returns a name that no other draft of this process has. Collisions with other processes are resolved by retrying.
fn temporary_name() -> OsString {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    OsString::from(format!("{PREFIX}{}-{number}{SUFFIX}", std::process::id()))
}

/// Returns true if a file has the name of a draft.
pub(super) fn is_temporary(name: &OsStr) -> bool {
    let numbers = || name.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-');
    numbers().is_some_and(|(pid, number)| {
        pid.parse::<u32>().is_ok_and(|pid| pid > 0) && number.parse::<u32>().is_ok()
    })
}

/// Removes a draft that no process is writing any more. A draft of another user, or one that cannot be removed, is
/// kept.
pub(super) fn remove_abandoned(directory: &Directory, name: &OsStr, owner: Option<Owner>) {
    // The type is checked before the file is opened, because opening a device can have side effects.
    let found = fstatat(&directory.handle, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    if !found.is_ok_and(|found| SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG) {
        return;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let Ok(file) = openat(&directory.handle, name, flags, Mode::empty()).map(File::from) else { return };
    if file.metadata().is_ok_and(|found| is_ours(&found, owner)) && file.try_lock().is_ok() {
        let _ = unlinkat(&directory.handle, name, UnlinkatFlags::NoRemoveDir);
    }
}
