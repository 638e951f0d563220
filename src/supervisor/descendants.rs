//! The processes below the runner: what a worker leaves behind is found here, ended and reaped.
//!
//! The runner is a child subreaper: whatever loses its parent comes to it, so that all that a worker ever started has
//! the runner among its ancestors, in whichever process group or session it is. They are found by walking `/proc`, and
//! reaped by pid: `waitpid(-1)` would steal the worker's own exit from tokio. Where the worker has a cgroup of its own,
//! whoever lives in it counts as one of them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tracing::{debug, warn};

use crate::host::cgroup::WorkerCgroup;

/// Finds, signals and reaps the runner's descendants.
#[derive(Debug)]
pub(super) struct Descendants {
    /// Children that the runner had before it started any worker, by pid and start time: a wrapper's, not ours.
    foreign: HashSet<(i32, u64)>,
    helpers: Helpers,
    /// The worker's own, where there can be one.
    cgroup: Option<WorkerCgroup>,
}

/// The runner's own short-lived children (host commands, `--version`): no worker left them behind, and whoever started
/// them waits for them.
#[derive(Debug, Clone, Default)]
pub(super) struct Helpers(Arc<Mutex<HashSet<i32>>>);

/// A helper, until this is dropped.
#[derive(Debug)]
pub(super) struct Helper {
    pid: i32,
    helpers: Helpers,
}

impl Helpers {
    /// From the moment of its spawn.
    pub(super) fn add(&self, pid: Option<u32>) -> Helper {
        let pid = pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        self.set().insert(pid);
        Helper { pid, helpers: self.clone() }
    }

    fn has(&self, pid: i32) -> bool {
        self.set().contains(&pid)
    }

    fn set(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.helpers.set().remove(&self.pid);
    }
}

/// One line of `/proc/PID/stat`, as far as it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    pid: i32,
    parent: i32,
    zombie: bool,
    /// Clock ticks since boot: tells two processes with the same pid apart.
    start: u64,
}

impl Descendants {
    /// Makes the runner a subreaper, and remembers the children that it has already. `end_all`: nothing of a worker is
    /// to be left alive, so that it gets a cgroup of its own, where there can be one.
    pub(super) async fn new(end_all: bool) -> Self {
        if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
            warn!(%error, "cannot become a subreaper: daemons that a worker leaves behind will not be found");
        }
        let cgroup = WorkerCgroup::below_runner().filter(|_| end_all);
        if let Some(cgroup) = &cgroup {
            cgroup.end_stale().await;
        }
        let mut this = Self { foreign: HashSet::new(), helpers: Helpers::default(), cgroup };
        if has_children() {
            let own = nix::unistd::getpid().as_raw();
            let children = processes().into_iter().filter(|stat| stat.parent == own);
            this.foreign = children.map(|stat| (stat.pid, stat.start)).collect();
        }
        this
    }

    /// Where the runner's own short-lived children are noted.
    pub(super) fn helpers(&self) -> Helpers {
        self.helpers.clone()
    }

    /// Reaps orphans that came to the runner and have died. `worker` and helpers are left to tokio.
    pub(super) fn reap(&self, worker: Option<u32>) {
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Ok(status) = waitid(Id::All, peek) {
            let Some(pid) = status.pid().filter(|_| status != WaitStatus::StillAlive) else { return };
            if u32::try_from(pid.as_raw()).ok() == worker || self.helpers.has(pid.as_raw()) {
                return;
            }
            if let Err(error) = waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                debug!(%pid, %error, "cannot reap an orphan");
                return;
            }
        }
    }

    /// The entrance of the worker's cgroup.
    pub(super) fn entrance(&self) -> Option<OwnedFd> {
        self.cgroup.as_ref()?.entrance()
    }

    /// The worker's cgroup is needed no longer. What cannot be removed yet, is when the next worker has ended.
    pub(super) fn leave_cgroup(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }

    /// No worker follows.
    pub(super) async fn end_cgroup(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.removed().await;
        }
    }

    /// The living descendants, zombies and foreign ones left out.
    pub(super) fn living(&self) -> Vec<Pid> {
        let mut living = self.below_runner();
        if let Some(cgroup) = &self.cgroup {
            let known: HashSet<Pid> = living.iter().copied().collect();
            living.extend(cgroup.processes().into_iter().filter(|pid| !known.contains(pid)));
        }
        living
    }

    fn below_runner(&self) -> Vec<Pid> {
        if !has_children() {
            return Vec::new();
        }
        let all = processes();
        let mut children: HashMap<i32, Vec<Stat>> = HashMap::new();
        for stat in all {
            children.entry(stat.parent).or_default().push(stat);
        }
        let mut found = Vec::new();
        let mut parents = vec![nix::unistd::getpid().as_raw()];
        while let Some(parent) = parents.pop() {
            for stat in children.remove(&parent).unwrap_or_default() {
                if self.foreign.contains(&(stat.pid, stat.start)) || self.helpers.has(stat.pid) {
                    continue;
                }
                parents.push(stat.pid);
                if !stat.zombie {
                    found.push(Pid::from_raw(stat.pid));
                }
            }
        }
        found
    }

    /// SIGKILL to every descendant, again and again while new ones appear: a tree that forks while it is being killed.
    pub(super) fn kill(&self) {
        const ROUNDS: usize = 20;
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        let mut before = usize::MAX;
        for _ in 0..ROUNDS {
            let living = self.living();
            signal(&living, Signal::SIGKILL);
            let count = living.len();
            if count == 0 || count >= before {
                return;
            }
            before = count;
        }
    }
}

/// Sends a signal to these descendants.
pub(super) fn signal(pids: &[Pid], signal: Signal) {
    for pid in pids {
        match kill(*pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => {
                warn!(%pid, %signal, %error, "cannot signal a process that the worker left behind");
            }
        }
    }
}

/// Whether the runner has any child, dead or alive: a subreaper without children has no descendants. One system call.
fn has_children() -> bool {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, peek) != Err(Errno::ECHILD)
}

/// All processes of the machine. One that ends while it is being read is left out.
fn processes() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
            parse_stat(pid, &text)
        })
        .collect()
}

/// `4711 (a name) S 1 …`: the name can hold anything, also `)`, so fields are counted from the last one (proc(5)).
fn parse_stat(pid: i32, text: &[u8]) -> Option<Stat> {
    const STATE: usize = 0;
    const PARENT: usize = 1;
    const START: usize = 19;
    let after_name = memchr::memrchr(b')', text)? + 1;
    let rest = std::str::from_utf8(text.get(after_name..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(START + 1).collect();
    Some(Stat {
        pid,
        parent: fields.get(PARENT)?.parse().ok()?,
        zombie: matches!(*fields.get(STATE)?, "Z" | "X"),
        start: fields.get(START)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_and_spaces_is_skipped() {
        let line = b"42 (a) R 7 (b) Z 17 42 42 0 -1 4 5 6 7 8 9 10 11 12 20 0 1 0 123456 1 2 3";
        let expected = Stat { pid: 42, parent: 17, zombie: true, start: 123_456 };
        assert_eq!(parse_stat(42, line), Some(expected));
    }

    #[test]
    fn a_line_that_breaks_off_is_no_process() {
        assert_eq!(parse_stat(42, b"42 (a) S 17"), None);
        assert_eq!(parse_stat(42, b""), None);
    }

    #[test]
    fn this_very_process_is_seen() {
        let own = nix::unistd::getpid().as_raw();
        assert!(processes().iter().any(|stat| stat.pid == own && !stat.zombie));
    }
}
