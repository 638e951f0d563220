//! `test-worker hung-disk HOW`: the server of a FUSE file system that does not answer, with the device as stdin. It
//! ends when its stdout has no reader any more.

use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Requests (linux/fuse.h). No other request is sent before the first one is answered.
const INIT: u32 = 26;
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const FLUSH: u32 = 25;

const ROOT: u64 = 1;
const FILE: u64 = 2;

/// The answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// None; requests are not read.
    Killable,
    /// None; requests are read, so that the waiting processes cannot be killed.
    Endless,
    /// All except the last close of a file; each name is an empty file.
    Close,
}

/// Serves until the connection is aborted or stdout is closed.
pub(crate) fn serve(how: &str) {
    let how = match how {
        "endless" => How::Endless,
        "close" => How::Close,
        _ => How::Killable,
    };
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let mut request = vec![0; 1 << 20];
    let mut greeted = false;
    while wait(stdin.as_fd(), stdout.as_fd(), how != How::Killable || !greeted) {
        let Ok(size) = nix::unistd::read(stdin.as_fd(), &mut request) else { return };
        let Some(answer) = request.get(..size).and_then(|request| answer(request, how)) else { continue };
        if nix::unistd::write(stdin.as_fd(), &answer).is_err() {
            return;
        }
        greeted = true;
    }
}

/// The answer with its header; `None`: there is none.
fn answer(request: &[u8], how: How) -> Option<Vec<u8>> {
    let opcode = u32::from_ne_bytes(request.get(4..8)?.try_into().ok()?);
    let node = u64::from_ne_bytes(request.get(16..24)?.try_into().ok()?);
    let (error, body) = match opcode {
        // Version 7.31, no features, and sizes that the kernel accepts.
        INIT => (0, words(&[7, 31, 1 << 16, 0, 0x9_000c, 1 << 16, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0])),
        _ if how != How::Close => return None,
        LOOKUP => (0, [longs(&[FILE, 0, 1, 1, 0]), attributes(FILE)].concat()),
        GETATTR => (0, [longs(&[1, 0]), attributes(node)].concat()),
        OPEN => (0, longs(&[1, 0])),
        FLUSH => return None,
        _ => (-libc::ENOSYS, Vec::new()),
    };
    let length = u32::try_from(16 + body.len()).ok()?;
    Some([&length.to_ne_bytes()[..], &i32::to_ne_bytes(error), request.get(8..16)?, &body].concat())
}

/// `struct fuse_attr`.
fn attributes(node: u64) -> Vec<u8> {
    let mode = if node == ROOT { libc::S_IFDIR | 0o755 } else { libc::S_IFREG | 0o644 };
    [longs(&[node, 0, 0, 0, 0, 0]), words(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])].concat()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// Returns true if there is a request. Without `requests`, they are not read.
fn wait(device: BorrowedFd<'_>, stdout: BorrowedFd<'_>, requests: bool) -> bool {
    let asked = if requests { PollFlags::POLLIN } else { PollFlags::empty() };
    let mut both = [PollFd::new(device, asked), PollFd::new(stdout, PollFlags::empty())];
    if poll(&mut both, PollTimeout::NONE).is_err() {
        return false;
    }
    let [device, stdout] = both.map(|end| end.revents().unwrap_or(PollFlags::empty()));
    stdout.is_empty() && !device.contains(PollFlags::POLLERR)
}
