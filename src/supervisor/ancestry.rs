//! Determines which processes came from the worker.
//!
//! The runner is a child subreaper: a process that loses its parent becomes the runner's child, so that every process
//! that a worker ever started is a descendant of the runner, in any process group and session. Not every descendant of
//! the runner is the worker's, though:
//!
//! * *Helpers* are the runner's own: host commands, `--version`, and processes that a host command leaves in the
//!   background.
//! * *Strangers* were children of this process before it became the runner (a shell started a sidecar and then executed
//!   the runner), or became its children because it is PID 1 (leftovers of a `docker exec`).
//!
//! If the runner is not PID 1 and had no children when it started, it can have no strangers: every descendant except
//! helpers is the worker's, whatever it has done to hide. If there can be strangers, a descendant is the worker's if it
//! lives in the worker's cgroup, was seen below the worker while that lived, is in a process group or session of such a
//! process, or has the run's token in its environment. A process that wipes its environment, and leaves its parent and
//! its session between two observations, is then mistaken for a stranger: docs/reliability.md.

use std::collections::{HashMap, HashSet};

use nix::errno::Errno;
use nix::sys::wait::{Id as WaitId, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tracing::warn;

use crate::host::helper::Helpers;
use crate::host::processes::{self, Id, Process};

/// The environment variable with the run's token, for a worker and all its descendants. The token is not secret.
const TOKEN: &str = "START_WORKER_RUN_TOKEN";

/// The process to which all orphans are reparented.
const INIT: i32 = 1;

/// The children of this process before the runner started a worker: a wrapper's.
#[derive(Debug, Clone, Default)]
pub struct Strangers(HashSet<Id>);

impl Strangers {
    /// Must be called before the first worker is started.
    pub fn so_far() -> Self {
        if !has_children() {
            return Self::default();
        }
        let own = own_pid();
        match processes::walk() {
            Ok(walk) => {
                let children = walk.processes.into_iter().filter(|process| process.parent == own);
                Self(children.map(|process| process.id).collect())
            }
            Err(error) => {
                warn!(%error, "cannot read /proc: processes that were started before start-worker may be taken for the worker's");
                Self::default()
            }
        }
    }
}

/// Distinguishes the worker's processes from all others.
#[derive(Debug)]
pub(super) struct Ancestry {
    /// True if only helpers and the worker's processes can be below the runner.
    pub(super) exclusive: bool,
    /// True if orphans become the runner's children.
    pub(super) subreaper: bool,
    strangers: HashSet<Id>,
    pub(super) helpers: Helpers,
    /// The entry with the token in the worker's environment.
    token: String,
    /// Processes seen below the worker, recorded if there can be strangers.
    known: HashMap<i32, u64>,
}

impl Ancestry {
    /// Makes the runner a subreaper.
    pub(super) fn new(strangers: &Strangers, helpers: Helpers) -> Self {
        let subreaper = nix::sys::prctl::set_child_subreaper(true);
        if let Err(error) = subreaper {
            warn!(%error, "cannot become a subreaper: daemons that a worker leaves behind are found by their environment alone");
        }
        Self {
            exclusive: subreaper.is_ok() && own_pid() != INIT && strangers.0.is_empty(),
            subreaper: subreaper.is_ok(),
            strangers: strangers.0.clone(),
            helpers,
            token: format!("{TOKEN}={:016x}", fastrand::u64(..)),
            known: HashMap::new(),
        }
    }

    /// The name and the value of the variable for the worker's environment.
    pub(super) fn token(&self) -> (&str, &str) {
        self.token.split_once('=').unwrap_or_default()
    }

    /// Begins the records of a new worker.
    pub(super) fn begin(&mut self, worker: i32) {
        self.known.clear();
        if let Ok(Some(process)) = processes::look_at(worker) {
            self.known.insert(process.id.pid, process.id.birth);
        }
    }

    /// Returns true if there can be helpers or strangers below the runner.
    pub(super) fn is_shared(&self) -> bool {
        !self.exclusive || self.helpers.any()
    }

    /// Records the worker's processes. Later, these and their children may have no other trace.
    pub(super) fn note(&mut self, found: &[Process]) {
        if self.exclusive {
            return;
        }
        // Keeps dead leaders whose pid names a live group or session.
        let named: HashSet<i32> = found.iter().flat_map(|process| [process.group, process.session]).collect();
        self.known.retain(|pid, _| named.contains(pid));
        self.known.extend(found.iter().map(|process| (process.id.pid, process.id.birth)));
    }

    /// Returns true if a child of the runner came from the worker.
    pub(super) fn is_workers(&self, child: &Process) -> bool {
        // Read first: once the start is over, the helper is registered.
        let starting = self.helpers.is_starting();
        if self.helpers.has(child.id.pid) || self.strangers.contains(&child.id) {
            return false;
        }
        // A fork of the runner's own, which other code waits for; or one that is becoming a helper.
        if is_own_fork(child) || starting && self.known.get(&child.id.pid) != Some(&child.id.birth) {
            return false;
        }
        // A host command in the background has become the runner's child.
        if self.helpers.left(child.id.pid) {
            return false;
        }
        self.exclusive
            || self.known.get(&child.id.pid) == Some(&child.id.birth)
            || self.is_name_of_known(child.group)
            || self.is_name_of_known(child.session)
            || self.helpers.environment_has(child.id.pid, {
                let token = self.token.clone();
                move |entry| entry == token.as_bytes()
            })
    }

    /// Returns true if a process of the worker's created the group or session, and not a later one with the same
    /// number.
    fn is_name_of_known(&self, leader: i32) -> bool {
        let Some(birth) = self.known.get(&leader) else { return false };
        processes::look_at(leader).ok().flatten().is_none_or(|process| process.id.birth == *birth)
    }
}

/// Returns true if the runner has any child, dead or alive: a subreaper without children has no descendants. Makes a
/// single system call.
pub(super) fn has_children() -> bool {
    waitid(WaitId::All, peek()) != Err(Errno::ECHILD)
}

/// Flags to find any child without reaping it, except the runner's own forks (`host/probe.rs`). A worker's leftover
/// processes are found: the kernel sends SIGCHLD for an orphan that becomes the runner's child.
pub(super) fn peek() -> WaitPidFlag {
    WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT
}

/// Returns true for a fork of the runner's own (`host/probe.rs`): its end raises no SIGCHLD, and an ordinary wait does
/// not find it. A process that has executed a program, or lost its parent, is not one.
fn is_own_fork(child: &Process) -> bool {
    child.parent == own_pid()
        && waitid(WaitId::Pid(Pid::from_raw(child.id.pid)), peek()) == Err(Errno::ECHILD)
}

pub(super) fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}
