//! A file system that never answers: a FUSE mount whose server never replies.
//!
//! It is mounted in its own mount namespace, which is shared by the processes started on the same thread. Its server is
//! another process (`test-worker hung-disk`), so that a thread of the test that waits for it cannot keep the device
//! open. When the disk is dropped, or the test is killed, the kernel aborts the connection, and every waiting call
//! fails.

use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::harness::Runner;

pub(crate) use test_support::hung_mount::Wait;
use test_support::hung_mount::{HungMount, device};
pub(crate) use test_support::processes::waits_for_disk;

/// Returns true if the runner, or a process that it has started, waits for the disk.
pub(crate) fn somebody_waits(runner: &Runner) -> bool {
    waits_for_disk(runner.pid()) || runner.children().iter().any(|child| waits_for_disk(child.pid))
}

/// The mounted file system.
pub(crate) struct HungDisk {
    mount: HungMount,
    folder: TempDir,
}

impl HungDisk {
    /// A path on the file system.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mount.path(name)
    }

    fn mount(wait: Wait) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace needs root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        // Outside the folders that a test walks through.
        let folder = tempfile::Builder::new().prefix("start-worker-hung-disk-").tempdir().unwrap();
        let device = device().expect("no /dev/fuse");
        let mount = HungMount::new(folder.path(), device, wait, &crate::harness::test_worker());
        let mount = mount.expect("it can be mounted");
        Self { mount, folder }
    }
}

impl Drop for HungDisk {
    fn drop(&mut self) {
        // The first call aborts the connection, even while the file system is in use.
        umount2(self.folder.path(), MntFlags::MNT_FORCE).ok();
        umount2(self.folder.path(), MntFlags::MNT_DETACH).ok();
    }
}

/// Runs a function on a thread that sees such a file system.
pub(crate) fn with_hung_disk<T: Send>(wait: Wait, run: impl FnOnce(&HungDisk) -> T + Send) -> T {
    std::thread::scope(|scope| {
        let result = scope.spawn(|| run(&HungDisk::mount(wait))).join();
        result.unwrap_or_else(|failure| std::panic::resume_unwind(failure))
    })
}
