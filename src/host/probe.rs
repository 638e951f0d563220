//! Checks in an expendable process whether a path's file system answers.
//!
//! A thread that waits for a server that has read its request and never answers (FUSE), or for a dead hard mount,
//! cannot be killed, and no process ends before all of its threads do. One such call keeps the runner, and its service,
//! from ending. On hosts with mounted file systems that can hang because of the server behind them, each call is
//! therefore preceded by a child process that only accesses the path. That costs a fork; other hosts only pay for
//! reading `/proc/self/mountinfo`.
//!
//! The child's end raises no signal, so that no other code waits for it, in particular not the supervisor, which reaps
//! orphans and treats processes below the runner as a worker's.
#![expect(unsafe_code, reason = "fork, and what runs in the child, have no safe wrappers")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};
use tracing::debug;

use super::mounts;

/// File systems with a server behind them, in another process or on another machine.
const SERVED: [&str; 18] = [
    "fuse",
    "fuseblk",
    "virtiofs",
    "9p",
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "ceph",
    "afs",
    "lustre",
    "beegfs",
    "gpfs",
    "glusterfs",
    "gfs2",
    "ocfs2",
    "orangefs",
    "coda",
];

/// Accesses paths, one at a time. Clones share the child that has not returned.
#[derive(Debug, Clone, Default)]
pub(super) struct Probe(Arc<Mutex<Option<Child>>>);

#[derive(Debug)]
struct Child {
    pid: Pid,
    /// The child holds the other end until it ends.
    end: OwnedFd,
}

impl Probe {
    /// Returns true if the path can be accessed within `limit`. Blocks for at most that long. Waits for an earlier
    /// child that has not returned first, so that there is never more than one.
    pub(super) fn answers(&self, path: &Path, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut lost = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.as_ref().is_some_and(|child| child.end(until).is_none()) {
            return false;
        }
        *lost = None;
        if !mounts::kinds().iter().any(|kind| is_served(kind)) {
            return true;
        }
        let child = match Child::look_at(path) {
            Ok(child) => child,
            // Without a child, the call itself shows whether the path answers.
            Err(error) => {
                debug!(path = %path.display(), %error, "cannot look at a path before it is used");
                return true;
            }
        };
        let answered = child.end(until);
        if answered.is_none() {
            *lost = Some(child);
        }
        answered.unwrap_or(false)
    }
}

fn is_served(kind: &str) -> bool {
    SERVED.contains(&kind) || kind.starts_with("fuse.")
}

impl Child {
    /// Forks a child that accesses the path or, if it does not exist, its parents.
    fn look_at(path: &Path) -> nix::Result<Self> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let places: Vec<CString> =
            path.ancestors().filter_map(|place| CString::new(place.as_os_str().as_bytes()).ok()).collect();
        let (end, its_end) = pipe2(OFlag::O_CLOEXEC)?;
        // None of the runner's signal handlers may run in the child: they would report the child's signal to the
        // runner.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: without flags the call is a fork without a signal at the child's end. The child makes only system
        // calls on data that was allocated before, and ends without running any other code of ours.
        let forked = Errno::result(unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) });
        if forked == Ok(0) {
            look(&places, its_end.as_raw_fd());
        }
        mask.thread_set_mask()?;
        let pid = i32::try_from(forked?).map_err(|_| Errno::EOVERFLOW)?;
        Ok(Self { pid: Pid::from_raw(pid), end })
    }

    /// Waits for the child's end and reaps it. Returns true if it ended with an answer; `None`: the child is still
    /// running.
    fn end(&self, until: Instant) -> Option<bool> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.end.as_fd(), PollFlags::POLLIN)], left) {
                Err(Errno::EINTR) => {}
                Ok(0) | Err(_) => return None,
                Ok(_) => {
                    let status = waitpid(self.pid, Some(WaitPidFlag::__WCLONE));
                    return Some(status == Ok(WaitStatus::Exited(self.pid, 0)));
                }
            }
        }
    }
}

/// Runs in the child. Keeps none of the runner's files open, and dies with the runner where the kernel supports that.
fn look(places: &[CString], its_end: i32) -> ! {
    const KEPT: i32 = 0;
    // SAFETY: plain system calls; `dup2` and `close_range` affect only descriptors of this process, which runs nothing
    // else. The strings and the buffer outlive the calls.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::dup2(its_end, KEPT);
        // Also closes the log, because a reader of the log waits until every writer has closed it.
        libc::syscall(libc::SYS_close_range, KEPT + 1, u32::MAX, 0);
        for place in places {
            let mut found = std::mem::zeroed();
            if libc::statfs(place.as_ptr(), &raw mut found) == 0 || *libc::__errno_location() != libc::ENOENT
            {
                break;
            }
        }
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_has_a_server_behind_it_is_known() {
        for (kind, served) in
            [("fuse", true), ("fuse.sshfs", true), ("nfs4", true), ("fusectl", false), ("ext4", false)]
        {
            assert_eq!(is_served(kind), served, "{kind}");
        }
    }

    #[test]
    fn a_path_that_answers_is_looked_at_in_a_child_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path(), &folder.path().join("not/there"), Path::new("src")] {
            let child = Child::look_at(path).unwrap();
            assert_eq!(child.end(Instant::now() + LONG), Some(true), "{}", path.display());
            assert_eq!(waitpid(child.pid, Some(WaitPidFlag::__WALL)), Err(Errno::ECHILD));
        }
    }

    #[test]
    fn a_child_that_is_killed_has_no_answer() {
        let (end, its_end) = pipe2(OFlag::O_CLOEXEC).unwrap();
        // SAFETY: as in `look_at`; the child waits until it is killed.
        let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
        if pid == 0 {
            loop {
                // SAFETY: a plain system call.
                unsafe { libc::pause() };
            }
        }
        drop(its_end);
        let child = Child { pid: Pid::from_raw(i32::try_from(pid).unwrap()), end };
        assert_eq!(child.end(Instant::now() + Duration::from_millis(1)), None);
        nix::sys::signal::kill(child.pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        assert_eq!(child.end(Instant::now() + LONG), Some(false));
    }

    #[test]
    fn a_child_that_does_not_come_back_is_not_followed_by_another() {
        let (end, its_end) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let probe = Probe::default();
        *probe.0.lock().unwrap() = Some(Child { pid: Pid::from_raw(i32::MAX), end });
        assert!(!probe.answers(Path::new("/"), Duration::from_millis(10)));
        drop(its_end);
        assert!(probe.answers(Path::new("/"), LONG));
    }
}
