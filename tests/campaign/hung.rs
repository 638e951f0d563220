//! Folders of a host whose file system stops to answer: a FUSE mount is laid over them, whose server answers nothing.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use test_support::hung_mount::{HungMount, Wait, device};

use crate::disk::Disk;

/// A folder that can hang. The campaign itself never takes the way that hangs.
pub(crate) struct Folder {
    path: PathBuf,
    /// The files below the mount.
    below: File,
    mount: Option<HungMount>,
}

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        fs::create_dir_all(&path).expect("a folder");
        let below = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(&path);
        Self { path, below: below.expect("a folder of ours"), mount: None }
    }

    /// As the runner and its worker know it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its files, whatever is mounted over it.
    pub(crate) fn below(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.below.as_raw_fd()).into()
    }

    /// Nothing in it answers any more. `Err`: why that is not possible here.
    pub(crate) fn hang(&mut self, wait: Wait, worker: &Path) -> Result<(), String> {
        if self.mount.is_some() {
            return Ok(());
        }
        if !Disk::can_fail() {
            return Err("there is no mount namespace (that takes root)".to_owned());
        }
        let mounted = device().and_then(|device| HungMount::new(&self.path, device, wait, worker));
        self.mount = Some(mounted.map_err(|cause| format!("no FUSE mount: {cause}"))?);
        Ok(())
    }

    /// Makes the file system answer again. Processes that wait for it continue with an error.
    pub(crate) fn answer(&mut self) {
        if self.mount.take().is_some() {
            umount2(&self.path, MntFlags::MNT_DETACH).ok();
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.answer();
    }
}
