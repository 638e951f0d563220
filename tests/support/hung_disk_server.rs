//! `test-worker hung-disk HOW`: the server of a FUSE file system, whose device is stdin, that answers nothing but the
//! kernel's greeting. It ends when nobody reads its stdout any more.

use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The one request that is answered (linux/fuse.h): without it nothing can be asked.
const INIT: u32 = 26;

/// Serves until the connection is aborted or stdout is closed. `endless`: requests are taken, and whoever waits cannot be
/// killed.
pub(crate) fn serve(endless: bool) {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let mut request = vec![0; 1 << 20];
    let mut greeted = false;
    while wait(stdin.as_fd(), stdout.as_fd(), endless || !greeted) {
        let Ok(size) = nix::unistd::read(stdin.as_fd(), &mut request) else { return };
        if size < 16 || request[4..8] != INIT.to_ne_bytes() {
            continue;
        }
        // fuse_out_header, then fuse_init_out: version 7.31, no features, and sizes that the kernel accepts.
        let body: [u32; 16] = [7, 31, 1 << 16, 0, 0x9_000c, 1 << 16, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut answer = Vec::new();
        answer.extend_from_slice(&(16 + 4 * 16_u32).to_ne_bytes());
        answer.extend_from_slice(&0_i32.to_ne_bytes());
        answer.extend_from_slice(&request[8..16]);
        answer.extend(body.iter().flat_map(|word| word.to_ne_bytes()));
        if nix::unistd::write(stdin.as_fd(), &answer).is_err() {
            return;
        }
        greeted = true;
    }
}

/// Whether there is a request. Without `requests` they are left where they are.
fn wait(device: BorrowedFd<'_>, stdout: BorrowedFd<'_>, requests: bool) -> bool {
    let asked = if requests { PollFlags::POLLIN } else { PollFlags::empty() };
    let mut both = [PollFd::new(device, asked), PollFd::new(stdout, PollFlags::empty())];
    if poll(&mut both, PollTimeout::NONE).is_err() {
        return false;
    }
    let [device, stdout] = both.map(|end| end.revents().unwrap_or(PollFlags::empty()));
    stdout.is_empty() && !device.contains(PollFlags::POLLERR)
}
