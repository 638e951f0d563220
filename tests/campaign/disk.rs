//! The disk that the cache is on: small, in memory, and at times full or read-only. For root alone, in a mount namespace
//! of our own; else it is a folder that nothing happens to.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::MsFlags;

use crate::hung::Folder;

/// Says that we are in a mount namespace of our own.
const INSIDE: &str = "CAMPAIGN_MOUNTS";

/// Goes on in a mount namespace of our own, where that is possible.
pub(crate) fn enter_namespace() {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        command
    };
    let possible =
        || unshare().arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if std::env::var_os(INSIDE).is_some() || !nix::unistd::geteuid().is_root() || !possible() {
        return;
    }
    if let Ok(this) = std::env::current_exe() {
        // Comes back only where it has failed: then without.
        let _ = unshare().arg(this).args(std::env::args_os().skip(1)).env(INSIDE, "1").exec();
    }
}

/// A folder of a host.
pub(crate) struct Disk {
    pub(crate) folder: Folder,
    mounted: bool,
}

impl Disk {
    pub(crate) fn new(path: PathBuf) -> Self {
        fs::create_dir_all(&path).expect("a folder");
        let mounted = std::env::var_os(INSIDE).is_some()
            && mount(["-t", "tmpfs", "-o", "size=160k,mode=700", "campaign"].map(OsStr::new), &path);
        Self { folder: Folder::new(path), mounted }
    }

    /// Returns true if disks can fail here.
    pub(crate) fn can_fail() -> bool {
        std::env::var_os(INSIDE).is_some()
    }

    /// Nothing more can be written.
    pub(crate) fn fill(&self) {
        if !self.mounted {
            return;
        }
        let Ok(mut ballast) = File::create(self.ballast()) else { return };
        for size in [4096, 512, 1] {
            while ballast.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    pub(crate) fn empty(&self) {
        fs::remove_file(self.ballast()).ok();
    }

    fn ballast(&self) -> PathBuf {
        self.folder.below().join("ballast")
    }

    pub(crate) fn set_read_only(&self, read_only: bool) {
        if self.mounted {
            let read_only = if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
            let none = None::<&str>;
            // Does not use the `mount` program, because that looks at the file systems mounted over it.
            nix::mount::mount(none, &self.folder.below(), none, MsFlags::MS_REMOUNT | read_only, none).ok();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            self.folder.answer();
            quietly(Command::new("umount").arg("--lazy").arg(self.folder.path()));
        }
    }
}

fn mount<const N: usize>(options: [&OsStr; N], place: &Path) -> bool {
    quietly(Command::new("mount").args(options).arg(place))
}

fn quietly(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
