//! A root directory and the files below it. Symlinks are resolved as if the directory were `/`, so none leads out of
//! it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::unistd::AccessFlags;

use super::AutologinError;
use crate::host::atomic::{self, Attributes, Owner};

/// The maximum number of symlinks in a path, as in Linux. More indicate a loop.
const MOST_LINKS: u32 = 40;

/// The maximum size of a file, in bytes.
const LONGEST: u64 = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn new(path: &Path) -> Self {
        Self(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// Returns true for the running system's own root.
    pub(super) fn is_live(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Resolves a path (`/etc/…`) with all symlinks, also at its last component. A missing file resolves to the path at
    /// which it would be created.
    pub(super) fn resolve(&self, path: &str) -> io::Result<PathBuf> {
        let mut left: Vec<std::ffi::OsString> = parts(Path::new(path));
        let (mut at, mut links) = (self.0.clone(), 0);
        while let Some(part) = left.pop() {
            if part == ".." {
                if at != self.0 {
                    at.pop();
                }
                continue;
            }
            let next = at.join(&part);
            let Ok(target) = std::fs::read_link(&next) else {
                at = next;
                continue;
            };
            links += 1;
            if links > MOST_LINKS {
                return Err(nix::errno::Errno::ELOOP.into());
            }
            if target.is_absolute() {
                at.clone_from(&self.0);
            }
            left.extend(parts(&target));
        }
        Ok(at)
    }

    /// As [`Root::resolve`], but a symlink at the path itself is not followed.
    pub(super) fn resolve_entry(&self, path: &str) -> io::Result<PathBuf> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok(self.resolve(folder)?.join(name))
    }

    /// The target of a symlink; `None`: there is no such link.
    pub(super) fn link(&self, path: &str) -> Option<PathBuf> {
        std::fs::read_link(self.resolve_entry(path).ok()?).ok()
    }

    /// Returns true if there is a regular file at this path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.resolve(path).is_ok_and(|path| path.is_file())
    }

    /// A file's content; `None`: there is no such file.
    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, AutologinError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| AutologinError::Read { path, source }
        };
        let path = self.resolve(path).map_err(failed(Path::new(path)))?;
        read(&path).map_err(failed(&path))
    }

    /// Returns true if this process could write or create the file.
    pub(super) fn may_write(&self, path: &Path) -> bool {
        let folder = path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(&self.0);
        nix::unistd::access(folder, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
    }
}

/// The components of a path in reverse order.
fn parts(path: &Path) -> Vec<std::ffi::OsString> {
    let named = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().rev().filter_map(named).collect()
}

/// A regular file's content; `None`: the file does not exist.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Non-blocking, so that opening a pipe does not wait.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut file = match opened {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        opened => opened?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut content = Vec::new();
    file.by_ref().take(LONGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "longer than 1 MiB"));
    }
    Ok(Some(content))
}

/// Replaces a file, and keeps its mode and owner (a new file: 0644, this process's user). The content is on the disk
/// when this returns, even if it was already correct. Returns true if the content changed.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<bool, AutologinError> {
    let failed = |source| AutologinError::Read { path: path.to_owned(), source };
    // No attributes are taken from a symlink, which is replaced.
    let here = path.symlink_metadata().ok().filter(std::fs::Metadata::is_file);
    if here.is_some() && read(path).map_err(failed)?.as_deref() == Some(content) {
        // The previous writer may not have synced the file.
        let synced = File::open(path).and_then(|file| file.sync_all());
        synced.map_err(failed)?;
        atomic::Directory::open(atomic::parent_of(path))?.sync()?;
        return Ok(false);
    }
    let attributes = here.map_or(Attributes { mode: 0o644, owner: None }, |meta| Attributes {
        mode: meta.permissions().mode() & 0o7777,
        owner: Some(Owner { uid: meta.uid(), gid: meta.gid() }),
    });
    atomic::replace(path, content, attributes, 0o755)?;
    Ok(true)
}

/// Removes a file. The removal is on the disk when this returns. Returns true if the file existed.
pub(super) fn remove(path: &Path) -> Result<bool, AutologinError> {
    let there = path.symlink_metadata().is_ok();
    atomic::remove(path)?;
    Ok(there)
}
