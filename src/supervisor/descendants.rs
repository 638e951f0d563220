//! Finds, signals and reaps the worker's leftover processes. `ancestry.rs` determines which processes those are.
//!
//! The kernel decides when no process is left: a process without children has no descendants, and a cgroup that is not
//! populated is empty. Only if helpers or strangers prevent that answer, two consecutive walks through `/proc` without
//! a match count as the end.
//!
//! Orphans are reaped by pid, because `waitpid(-1)` would steal the worker's own exit from tokio.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id as WaitId, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::time::Instant;
use tracing::{debug, warn};

pub(super) use super::ancestry::Strangers;
use super::ancestry::{Ancestry, has_children, own_pid, peek};
use super::spawn::Origin;
use crate::host::cgroup::WorkerCgroups;
use crate::host::helper::Helpers;
use crate::host::processes::{self, Id, Process};

/// Time limit of one attempt to freeze a forking tree. The supervisor's loop waits meanwhile.
const HUNT: Duration = Duration::from_millis(20);

/// Maximum number of walks through `/proc` until all found processes are still alive at the end of one.
const WALKS: usize = 3;

/// Maximum number of files that a walk through `/proc` and a signal need open at the same time.
const SPARE_FILES: usize = 3;

/// Interval at which the worker's descendants are recorded if there can be strangers.
const OBSERVATION: Duration = Duration::from_secs(1);

/// Minimum interval between recordings that the death of a process triggers.
const SOON: Duration = Duration::from_millis(200);

/// Finds, signals and reaps the worker's descendants.
#[derive(Debug)]
pub(super) struct Descendants {
    ancestry: Ancestry,
    /// `None`: the worker cannot have a cgroup of its own.
    cgroups: Option<WorkerCgroups>,
    worker: Worker,
    observed: Instant,
    /// Closed while `/proc` is read, so that reading works even if no more files can be opened.
    spare: Vec<File>,
    warned: bool,
}

/// The most recent worker, by its pid.
#[derive(Debug, Clone, Copy)]
enum Worker {
    None,
    /// The worker has not been reaped.
    Lives(i32),
    Ended(i32),
}

/// The worker's leftover processes.
#[derive(Debug)]
pub(super) enum Survey {
    /// There are none.
    Gone,
    Living(Vec<Process>),
    /// There are some, or they cannot be determined.
    Unseen,
    /// Cannot be determined while another thread starts a helper.
    Undecided,
}

impl Descendants {
    /// Makes the runner a subreaper. `end_all`: all leftover processes are to be terminated, so a worker gets a cgroup
    /// of its own where possible.
    pub(super) async fn new(end_all: bool, strangers: &Strangers, helpers: Helpers) -> Self {
        let cgroups = WorkerCgroups::below_runner().filter(|_| end_all);
        if let Some(cgroups) = &cgroups {
            cgroups.end_stale().await;
        }
        Self {
            ancestry: Ancestry::new(strangers, helpers),
            cgroups,
            worker: Worker::None,
            observed: Instant::now(),
            spare: spare_files(),
            warned: false,
        }
    }

    /// The registry of the runner's own short-lived children.
    pub(super) fn helpers(&self) -> Helpers {
        self.ancestry.helpers.clone()
    }

    /// Creates the marks for the next worker.
    pub(super) fn origin(&mut self) -> Origin {
        let (name, value) = self.ancestry.token();
        Origin {
            token: (name.to_owned(), value.to_owned()),
            cgroup: self.cgroups.as_mut().and_then(WorkerCgroups::entrance),
        }
    }

    /// Records the start of a worker with [`Descendants::origin`].
    pub(super) fn worker_started(&mut self, pid: u32) {
        if let Some(cgroups) = &self.cgroups {
            cgroups.check_joined(pid);
        }
        self.observed = Instant::now();
        let Ok(pid) = i32::try_from(pid) else { return };
        self.worker = Worker::Lives(pid);
        self.ancestry.begin(pid);
    }

    /// The CPU time of the worker and all its descendants; `None`: the worker has no cgroup of its own.
    pub(super) fn cpu_time(&self) -> Option<Duration> {
        self.cgroups.as_ref()?.cpu_time()
    }

    /// Records that the worker has exited and been reaped.
    pub(super) fn worker_ended(&mut self) {
        if let Worker::Lives(pid) = self.worker {
            self.worker = Worker::Ended(pid);
        }
    }

    fn worker_lives(&self) -> bool {
        matches!(self.worker, Worker::Lives(_))
    }

    /// Reaps dead orphans that became the runner's children. The worker and helpers are left to the code that waits for
    /// them; while another thread starts one, nothing is reaped, because it is not known yet.
    pub(super) fn reap(&self) {
        // Prevents starts meanwhile.
        let Some(_none) = self.ancestry.helpers.none_starting() else { return };
        while let Ok(status) = waitid(WaitId::All, peek()) {
            let Some(pid) = status.pid().filter(|_| status != WaitStatus::StillAlive) else { return };
            let is_worker = matches!(self.worker, Worker::Lives(worker) if worker == pid.as_raw());
            if is_worker || self.ancestry.helpers.has(pid.as_raw()) {
                return;
            }
            if let Err(error) = waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                debug!(%pid, %error, "cannot reap an orphan");
                return;
            }
        }
    }

    /// Waits until the worker's descendants are to be recorded again.
    pub(super) async fn observation(&self) {
        if self.ancestry.exclusive || !self.worker_lives() {
            return std::future::pending().await;
        }
        tokio::time::sleep_until(self.observed + OBSERVATION).await;
    }

    /// Records the descendants after a process has died, because its children have a new parent.
    pub(super) fn orphan_died(&mut self) {
        self.reap();
        if !self.ancestry.exclusive && self.worker_lives() && self.observed.elapsed() >= SOON {
            self.observe();
        }
    }

    /// Records the worker's descendants, which may have no other trace later.
    pub(super) fn observe(&mut self) {
        self.observed = Instant::now();
        let mut found = Vec::new();
        if let Err(error) = self.descend(&mut |process| found.push(process.clone())) {
            debug!(%error, "cannot look at the worker's descendants");
        }
        found.extend(self.in_cgroup());
        self.ancestry.note(&found);
        debug!(processes = found.len(), "noted the worker's descendants");
    }

    /// Returns true if the kernel confirms that no leftover process exists. Does not read `/proc`.
    pub(super) fn are_gone(&self) -> bool {
        self.reap();
        !has_children() && !self.cgroups.as_ref().is_some_and(WorkerCgroups::is_populated)
    }

    /// Finds leftover processes: in the worker's cgroup, and, if that is empty or at the first time (`thorough`), in
    /// all of `/proc`.
    pub(super) fn survey(&mut self, thorough: bool) -> Survey {
        if self.are_gone() {
            return Survey::Gone;
        }
        self.spare.clear();
        let survey = self.look(thorough);
        self.spare = spare_files();
        survey
    }

    fn look(&mut self, thorough: bool) -> Survey {
        let mut found = self.in_cgroup();
        if !found.is_empty() && !thorough {
            return Survey::Living(found);
        }
        let before = self.ancestry.helpers.starts();
        // Helpers and strangers prevent the kernel's confirmation.
        let undecided = self.ancestry.is_shared();
        for _ in 0..if undecided { 2 } else { 1 } {
            match self.below_runner() {
                Ok(walked) => {
                    let in_cgroup: HashSet<Id> = found.iter().map(|process| process.id).collect();
                    found.extend(walked.into_iter().filter(|process| !in_cgroup.contains(&process.id)));
                }
                Err(error) => {
                    self.warn_of_hidden(&error.to_string());
                    return if found.is_empty() { Survey::Unseen } else { Survey::Living(found) };
                }
            }
            if !found.is_empty() {
                self.ancestry.note(&found);
                return Survey::Living(found);
            }
        }
        let populated = self.cgroups.as_ref().is_some_and(WorkerCgroups::is_populated);
        let after = self.ancestry.helpers.starts();
        match (undecided && !populated, after.is_none() || after != before) {
            (_, true) => Survey::Undecided,
            (true, _) => Survey::Gone,
            // The remaining children fork faster than a walk, or are hidden.
            (false, _) if self.are_gone() => Survey::Gone,
            (false, _) => Survey::Unseen,
        }
    }

    fn warn_of_hidden(&mut self, cause: &str) {
        if !std::mem::replace(&mut self.warned, true) {
            warn!(name: "leftovers-unknown",
                error = cause,
                "cannot look at all processes in /proc: leftover processes that are not in the worker's process group or cgroup may survive"
            );
        }
    }

    /// The live processes in the worker's cgroup.
    fn in_cgroup(&self) -> Vec<Process> {
        let pids = self.cgroups.as_ref().map(WorkerCgroups::processes).unwrap_or_default();
        let looked = pids.into_iter().filter_map(|pid| processes::look_at(pid).ok().flatten());
        looked.filter(|process| process.alive).collect()
    }

    /// The live descendants of the runner that are the worker's. If there are helpers and a found process has ended
    /// meanwhile, walks through `/proc` again, because its environment could not be read to identify it as a helper's.
    fn below_runner(&mut self) -> io::Result<Vec<Process>> {
        let mut found = self.walk_below_runner()?;
        for _ in 1..WALKS {
            let still_lives = |process: &Process| {
                let now = processes::look_at(process.id.pid);
                now.is_ok_and(|now| now.is_some_and(|now| now.alive && now.id == process.id))
            };
            if !self.ancestry.helpers.any() || found.iter().all(still_lives) {
                break;
            }
            found = self.walk_below_runner()?;
        }
        Ok(found)
    }

    /// Makes one walk.
    fn walk_below_runner(&mut self) -> io::Result<Vec<Process>> {
        let walk = processes::walk()?;
        if walk.hides {
            self.warn_of_hidden("processes of other users are hidden (hidepid, ProtectProc=)");
        }
        let own = own_pid();
        let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
        let mut next = Vec::new();
        for process in walk.processes {
            let comes_from_elsewhere = process.parent != own && process.id.pid != own;
            if !self.ancestry.subreaper && comes_from_elsewhere && self.ancestry.is_workers(&process) {
                next.push(process);
            } else {
                children.entry(process.parent).or_default().push(process);
            }
        }
        let below_own = children.remove(&own).unwrap_or_default();
        next.extend(below_own.into_iter().filter(|child| self.ancestry.is_workers(child)));
        let mut found = Vec::new();
        while let Some(process) = next.pop() {
            next.extend(children.remove(&process.id.pid).unwrap_or_default());
            if process.alive {
                found.push(process);
            }
        }
        Ok(found)
    }

    /// Visits the same processes from the top, without the rest of the host. A process that forks or exits meanwhile
    /// may be missed.
    fn descend(&self, visit: &mut dyn FnMut(&Process)) -> io::Result<()> {
        let own = own_pid();
        let mut next: Vec<(i32, i32)> = processes::children(own)?.into_iter().map(|pid| (pid, own)).collect();
        while let Some((pid, parent)) = next.pop() {
            let Some(process) = processes::look_at(pid)?.filter(|process| process.alive) else { continue };
            // The process is an orphan by now, or its pid has been reused.
            let belongs = if process.parent == own {
                self.ancestry.is_workers(&process)
            } else {
                process.parent == parent
            };
            if belongs {
                visit(&process);
                next.extend(processes::children(pid)?.into_iter().map(|child| (child, pid)));
            }
        }
        Ok(())
    }

    /// Sends SIGTERM to these processes, or without a list to the worker's process group, and continues stopped
    /// processes so that they can react.
    pub(super) fn terminate(&self, processes: Option<&[Process]>) {
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            match processes {
                Some(processes) => signal_each(processes.iter().map(|process| process.id), signal),
                None => self.signal_group(signal),
            }
        }
        if let Some(cgroups) = &self.cgroups {
            cgroups.thaw();
        }
    }

    /// Sends SIGKILL to all leftover processes. They are stopped first, because stopped processes do not fork and do
    /// not notice the end of others. Returns after a short time, even if not all were caught.
    pub(super) fn kill(&mut self) {
        self.spare.clear();
        if let Some(cgroups) = &self.cgroups {
            cgroups.kill();
        }
        self.signal_group(Signal::SIGKILL);
        let mut caught = self.stop();
        caught.extend(self.in_cgroup().iter().map(|process| process.id));
        // The newest first, because it is the one that forks.
        signal_each(caught.into_iter().rev(), Signal::SIGKILL);
        self.spare = spare_files();
    }

    /// Stops the worker's processes until two walks find no further one, or the time is up.
    fn stop(&mut self) -> Vec<Id> {
        let until = std::time::Instant::now() + HUNT;
        let (mut order, mut stopped) = (Vec::new(), HashSet::new());
        let mut found_nothing = 0;
        while found_nothing < 2 && std::time::Instant::now() < until && !self.are_gone() {
            let before = order.len();
            let mut stop = |process: &Process| {
                if stopped.insert(process.id) {
                    order.push(process.id);
                    signal_each([process.id], Signal::SIGSTOP);
                }
            };
            if let Err(error) = self.descend(&mut stop) {
                debug!(%error, "cannot read the children of a process: walking through /proc");
                match self.below_runner() {
                    Ok(found) => found.iter().for_each(stop),
                    Err(error) => {
                        self.warn_of_hidden(&error.to_string());
                        break;
                    }
                }
            }
            found_nothing = if order.len() == before { found_nothing + 1 } else { 0 };
        }
        order
    }

    /// Signals the process group of a worker that has been reaped. Its number is not reused for another group while it
    /// has members; a process with this pid is a later one.
    fn signal_group(&self, signal: Signal) {
        let Worker::Ended(pid) = self.worker else { return };
        let group = Pid::from_raw(pid);
        if kill(group, None) != Err(Errno::ESRCH) {
            return;
        }
        match killpg(group, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => warn!(pid = %group, %signal, %error, "cannot signal the worker's process group"),
        }
    }

    /// Removes the worker's cgroup.
    pub(super) fn leave_cgroup(&mut self) {
        if let Some(cgroups) = &mut self.cgroups {
            cgroups.remove();
        }
    }

    /// Removes the last worker's cgroup, and waits until it is gone.
    pub(super) async fn end_cgroup(&mut self) {
        if let Some(cgroups) = &mut self.cgroups {
            cgroups.removed().await;
        }
    }
}

fn signal_each(ids: impl IntoIterator<Item = Id>, signal: Signal) {
    for id in ids {
        if let Err(error) = processes::signal(id, signal) {
            warn!(pid = id.pid, %signal, %error, "cannot signal a process that the worker left behind");
        }
    }
}

fn spare_files() -> Vec<File> {
    (0..SPARE_FILES).filter_map(|_| File::open("/dev/null").ok()).collect()
}
