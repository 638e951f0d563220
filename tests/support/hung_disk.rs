//! A file system that never answers: a FUSE mount whose server replies to nothing.
//!
//! It is mounted in a mount namespace of its own, which the processes share that are started on the same thread. Its server
//! is another process (`test-worker hung-disk`), so that a thread of the test that waits for it cannot keep the device
//! open. When the disk is dropped, or the test is killed, the kernel aborts the connection, and everything that waits goes
//! on with an error.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::support::Runner;

/// Whether a thread of this process waits for an answer of a FUSE server: in state D once it got SIGKILL.
pub(crate) fn waits_for_disk(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut places = threads.flat_map(|thread| std::fs::read_to_string(thread.path().join("wchan")));
    places.any(|place| place == "request_wait_answer")
}

/// Whether the runner, or a process that it has started, waits for the disk.
pub(crate) fn somebody_waits(runner: &Runner) -> bool {
    waits_for_disk(runner.pid()) || runner.children().iter().any(|child| waits_for_disk(child.pid))
}

/// What ends the wait of a process that has touched the file system, apart from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// SIGKILL: the server does not even take the request.
    Killable,
    /// Nothing: the process is in state D.
    Endless,
    /// The same, but only the last close of a file has no answer.
    Close,
}

/// The mounted file system.
pub(crate) struct HungDisk {
    folder: TempDir,
    /// It ends when this process does: the pipe of its stdout closes.
    server: Child,
}

impl HungDisk {
    /// A path on it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn mount(wait: Wait) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace needs root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        // Apart from all that a test walks through.
        let folder = tempfile::Builder::new().prefix("start-worker-hung-disk-").tempdir().unwrap();
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("no /dev/fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("hung"), folder.path(), Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
        let how = match wait {
            Wait::Killable => "killable",
            Wait::Endless => "endless",
            Wait::Close => "close",
        };
        let server = Command::new(crate::support::test_worker())
            .args(["hung-disk", how])
            .stdin(device)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self { folder, server }
    }
}

impl Drop for HungDisk {
    fn drop(&mut self) {
        // The first one aborts the connection, also while the file system is in use.
        umount2(self.folder.path(), MntFlags::MNT_FORCE).ok();
        umount2(self.folder.path(), MntFlags::MNT_DETACH).ok();
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

/// Runs this on a thread that sees such a file system.
pub(crate) fn with_hung_disk<T: Send>(wait: Wait, run: impl FnOnce(&HungDisk) -> T + Send) -> T {
    std::thread::scope(|scope| {
        let result = scope.spawn(|| run(&HungDisk::mount(wait))).join();
        result.unwrap_or_else(|failure| std::panic::resume_unwind(failure))
    })
}
