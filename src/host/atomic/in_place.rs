//! Files that cannot be replaced and are written in place: a file that is itself a mount (`docker run -v file:file`),
//! or one in a directory that is not writable.
//!
//! A crash can leave such a file empty or truncated. Only regular files of ours are written, through an open
//! descriptor, and only after other users' access has been revoked.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, openat};
use nix::sys::stat::Mode;
use tracing::debug;

use super::{Attributes, Directory, dress, is_ours};

/// Returns true if a file that could not be replaced for this reason may still be writable: it is a mount point (EBUSY,
/// EXDEV), or its directory is not writable (EACCES, EPERM, EROFS).
pub(super) fn may_help(cause: &io::Error) -> bool {
    matches!(cause.raw_os_error(), Some(libc::EBUSY | libc::EXDEV | libc::EACCES | libc::EPERM | libc::EROFS))
}

/// Writes the file `name`, which will be `length` bytes long, in place. `None`: the file may not be written in place.
pub(super) fn write(
    directory: &Directory,
    (name, attributes): (&OsStr, Attributes),
    cause: &io::Error,
    length: u64,
    write_content: impl FnOnce(&mut File) -> io::Result<()>,
) -> Option<io::Result<()>> {
    let mut file = open(directory, name)?;
    if !file.metadata().is_ok_and(|found| is_ours(&found, attributes.owner) && found.nlink() <= 1) {
        return None;
    }
    debug!(
        path = %directory.path.join(name).display(), %cause,
        "the file cannot be replaced and is written in place: a crash while it is written can damage it"
    );
    Some(overwrite(&mut file, attributes, length, write_content))
}

fn overwrite(
    file: &mut File,
    attributes: Attributes,
    length: u64,
    write_content: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    reserve(file, length)?;
    // Access is revoked first, so that nobody else can open the file once it holds the new content.
    file.set_permissions(Permissions::from_mode(attributes.mode & 0o600))?;
    file.set_len(0)?;
    write_content(file)?;
    dress(file, attributes)?;
    file.sync_all()
}

/// Fails if the disk has no room for the new content, while the old content is still there.
fn reserve(file: &File, length: u64) -> io::Result<()> {
    let length = libc::off_t::try_from(length).unwrap_or(libc::off_t::MAX);
    if length == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
        Err(error @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)) => Err(error.into()),
        // Not every file system can reserve space.
        _ => Ok(()),
    }
}

pub(super) fn empty(directory: &Directory, name: &OsStr) -> io::Result<()> {
    let file = open(directory, name).ok_or(io::ErrorKind::PermissionDenied)?;
    if !is_ours(&file.metadata()?, None) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    file.set_len(0)?;
    file.sync_all()
}

fn open(directory: &Directory, name: &OsStr) -> Option<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    openat(&directory.handle, name, flags, Mode::empty()).map(File::from).ok()
}
