//! A file system that never answers: a FUSE mount whose server replies to nothing.
//!
//! It is mounted in a mount namespace of its own, which the processes share that are started on the same thread. When it
//! is dropped, or the test is killed, the kernel aborts the connection, and everything that waits goes on with an error.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// The one request that is answered (linux/fuse.h): without it nothing can be asked.
const INIT: u32 = 26;

/// What ends the wait of a process that has touched the file system, apart from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// SIGKILL: the server does not even take the request.
    Killable,
    /// Nothing: the process is in state D.
    Endless,
}

/// The mounted file system.
pub(crate) struct HungDisk {
    folder: TempDir,
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
        std::thread::spawn(move || serve(device, wait));
        Self { folder }
    }
}

impl Drop for HungDisk {
    fn drop(&mut self) {
        // The first one aborts the connection, also while the file system is in use.
        umount2(self.folder.path(), MntFlags::MNT_FORCE).ok();
        umount2(self.folder.path(), MntFlags::MNT_DETACH).ok();
    }
}

/// Runs this on a thread that sees such a file system.
pub(crate) fn with_hung_disk<T: Send>(wait: Wait, run: impl FnOnce(&HungDisk) -> T + Send) -> T {
    std::thread::scope(|scope| {
        let result = scope.spawn(|| run(&HungDisk::mount(wait))).join();
        result.unwrap_or_else(|failure| std::panic::resume_unwind(failure))
    })
}

/// Takes requests until the connection is aborted.
fn serve(mut device: File, wait: Wait) {
    let mut request = vec![0; 1 << 17];
    while let Ok(size) = device.read(&mut request) {
        let number = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        if size < 16 || number(4) != INIT {
            continue;
        }
        // fuse_out_header, then fuse_init_out: version 7.31, no features, and sizes that the kernel accepts.
        let body: [u32; 16] = [7, 31, 1 << 16, 0, 0x9_000c, 1 << 16, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut answer = Vec::new();
        answer.extend_from_slice(&(16 + 4 * 16_u32).to_ne_bytes());
        answer.extend_from_slice(&0_i32.to_ne_bytes());
        answer.extend_from_slice(&request[8..16]);
        answer.extend(body.iter().flat_map(|word| word.to_ne_bytes()));
        if device.write_all(&answer).is_err() {
            return;
        }
        if wait == Wait::Killable {
            // The device stays open, for without a server nothing would hang.
            let mut aborted = [PollFd::new(device.as_fd(), PollFlags::empty())];
            poll(&mut aborted, PollTimeout::NONE).ok();
            return;
        }
    }
}
