//! Where the log goes: written whole, whatever the sink is; one that fails is told about when it works again.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::warn;

/// Buffers above this are given back after a block, in bytes.
const SMALL: usize = 512 * 1024;

/// The sink, and what was lost on it.
#[derive(Debug)]
pub(super) struct Sink {
    fd: OwnedFd,
    lost: u64,
}

impl Sink {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, lost: 0 }
    }

    /// Writes the block, and waits for a sink that is slow. What cannot be written (a full disk, a reader that is gone)
    /// is dropped: the worker goes on.
    pub(super) fn write(&mut self, block: &mut Vec<u8>) {
        let mut rest = &block[..];
        while !rest.is_empty() {
            match nix::unistd::write(self.fd.as_fd(), rest) {
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    self.works_again();
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait(),
                Err(_) => {
                    self.lost += rest.len() as u64;
                    break;
                }
            }
        }
        block.clear();
        block.shrink_to(SMALL);
    }

    fn works_again(&mut self) {
        if self.lost > 0 {
            warn!(bytes = std::mem::take(&mut self.lost), "part of the log could not be written and is lost");
        }
    }

    /// A sink that somebody else made non-blocking.
    fn wait(&self) {
        let mut ready = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
        // Woken or failed: the next write tells.
        let _ = poll(&mut ready, PollTimeout::NONE);
    }
}
