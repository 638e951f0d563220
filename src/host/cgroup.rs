//! A separate cgroup for the worker, below the runner's: every process in it can be found and killed, whatever it has
//! done to detach itself.
//!
//! Only cgroup version 2, or the unified tree of a hybrid host. No controllers are enabled, and the runner stays where
//! systemd put it, in the unit's root cgroup. See cgroups(7), and systemd's `CGROUP_DELEGATION`. Where the runner's
//! cgroup is not delegated to it, the worker gets no cgroup. Where it is delegated and the worker still gets none, a
//! warning gives the reason.
//!
//! A lock on the worker's cgroup distinguishes a live runner from a killed one. Only the directory's owner may open it,
//! so that no other user can hold the lock. A lock that is held elsewhere costs no runner its cgroup: the runner picks
//! another name.

use std::cell::Cell;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use nix::unistd::AccessFlags;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::processes;

mod usage;

pub use usage::oom_kills;

/// The name, or the prefix of the name, of a worker's cgroup. No other program uses it.
const NAME: &str = "start-worker.worker";

/// The number of names to try: some belong to other runners, or to cgroups whose processes cannot be killed.
const NAMES: u32 = 100;

/// Other users may traverse the cgroup, because a task may want to read its own limits, but not open it.
const MODE: u32 = 0o711;

/// The attributes with which systemd marks a delegated cgroup: since version 251, and before (readable by root only).
const MARKS: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// Time limit for killed processes to leave the cgroup.
const LEAVING: Duration = Duration::from_secs(2);

/// Interval at which the removal of a cgroup is retried.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The runner's own cgroup, in which the workers' cgroups are created. Dropping it removes the empty ones.
#[derive(Debug)]
pub struct WorkerCgroups {
    unit: PathBuf,
    /// The cgroup of the most recent worker, until it is removed.
    current: Option<WorkerCgroup>,
    /// Limits the warning to one.
    warned: Cell<bool>,
}

#[derive(Debug)]
struct WorkerCgroup {
    path: PathBuf,
    _lock: Flock<File>,
}

impl WorkerCgroups {
    /// Uses the runner's own cgroup, if it is delegated to the runner.
    pub fn below_runner() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let unit = place(&own, &mounts)?;
        if !is_delegated(&unit) {
            debug!(cgroup = %unit.display(), "the runner's cgroup is not delegated to it: the worker stays in it");
            return None;
        }
        Some(Self::below(unit))
    }

    fn below(unit: PathBuf) -> Self {
        Self { unit, current: None, warned: Cell::new(false) }
    }

    /// Kills the processes in the cgroups of killed runners, and removes these cgroups.
    pub async fn end_stale(&self) {
        for path in self.of_workers() {
            let Some(_lock) = lock(&path) else { continue };
            let processes = members(&path).len();
            if remove(&path) {
                continue;
            }
            if removed_while(&path, || kill(&path)).await {
                info!(name: "leftovers-killed", cgroup = %path.display(), processes, "killed what an earlier runner's worker has left in its cgroup");
            } else {
                warn!(name: "leftovers-survived", cgroup = %path.display(), "what an earlier runner's worker has left cannot be killed: going on");
            }
        }
    }

    /// Creates a cgroup for the next worker. A process that writes `0` to the descriptor joins the cgroup.
    pub fn entrance(&mut self) -> Option<OwnedFd> {
        self.remove();
        match self.make() {
            Ok((cgroup, entrance)) => {
                debug!(cgroup = %cgroup.path.display(), "the worker gets a cgroup of its own");
                self.current = Some(cgroup);
                Some(entrance)
            }
            Err(error) => {
                self.warn_of_none(&error.to_string());
                None
            }
        }
    }

    fn make(&self) -> io::Result<(WorkerCgroup, OwnedFd)> {
        for number in 1..=NAMES {
            let name = if number == 1 { NAME.to_owned() } else { format!("{NAME}-{number}") };
            let path = self.unit.join(name);
            match DirBuilder::new().mode(MODE).create(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            // Until it is locked, another runner may mistake it for a killed runner's.
            let Some(lock) = lock(&path) else { continue };
            let entrance = File::options().write(true).open(path.join("cgroup.procs"))?;
            return Ok((WorkerCgroup { path, _lock: lock }, entrance.into()));
        }
        Err(io::Error::other(format!("{NAMES} cgroups of workers are there already")))
    }

    /// Checks that a worker has joined the cgroup that was created for it.
    pub fn check_joined(&self, pid: u32) {
        let Some(current) = &self.current else { return };
        let Ok(cgroups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return };
        let joined = current.path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
            cgroups.lines().any(|line| line.starts_with("0::") && line.split('/').any(|part| part == name))
        });
        // A worker that has already exited may be in no cgroup.
        let lives = i32::try_from(pid).ok().and_then(|pid| processes::look_at(pid).ok()?);
        if !joined && lives.is_some_and(|process| process.alive) {
            self.warn_of_none("the kernel did not let it in");
        }
    }

    fn warn_of_none(&self, cause: &str) {
        if self.warned.replace(true) {
            return;
        }
        warn!(name: "cgroup-unavailable",
            cgroup = %self.unit.display(), error = cause,
            "the worker has no cgroup of its own, although the unit's is delegated: leftover processes are found in /proc alone"
        );
    }

    /// The pids of the live processes in the worker's cgroup and its descendants.
    pub fn processes(&self) -> Vec<i32> {
        self.current.as_ref().map(|current| members(&current.path)).unwrap_or_default()
    }

    /// The CPU time of all processes that have ever been in the worker's cgroup; `None`: the worker has no cgroup.
    pub fn cpu_time(&self) -> Option<Duration> {
        usage::cpu_time(&self.current.as_ref()?.path)
    }

    /// Returns true if the kernel reports live processes in the worker's cgroup.
    pub fn is_populated(&self) -> bool {
        let Some(current) = &self.current else { return false };
        match fs::read_to_string(current.path.join("cgroup.events")) {
            Ok(events) => events.lines().any(|line| line == "populated 1"),
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
    }

    /// Thaws frozen processes, so that they can react to a signal.
    pub fn thaw(&self) {
        if let Some(current) = &self.current {
            for folder in folders(&current.path) {
                // The file does not exist before Linux 5.2.
                let _ = write_to(&folder.join("cgroup.freeze"), "0");
            }
        }
    }

    /// Sends SIGKILL to every process in the worker's cgroup.
    pub fn kill(&self) {
        if let Some(current) = &self.current {
            kill(&current.path);
        }
    }

    /// Removes the worker's cgroup. [`Drop`] retries one that cannot be removed yet.
    pub fn remove(&mut self) -> bool {
        self.current.take().is_none_or(|current| remove(&current.path))
    }

    /// Removes the worker's cgroup as soon as the killed processes have left it, which takes a moment.
    pub async fn removed(&mut self) -> bool {
        let Some(current) = self.current.take() else { return true };
        removed_while(&current.path, || {}).await
    }

    /// The workers' cgroups of all runners.
    fn of_workers(&self) -> Vec<PathBuf> {
        let is_one = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.and_then(|name| name.strip_prefix(NAME))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        directories(&self.unit).filter(is_one).collect()
    }
}

impl Drop for WorkerCgroups {
    fn drop(&mut self) {
        self.remove();
        for path in self.of_workers() {
            if let Some(_lock) = lock(&path) {
                remove(&path);
            }
        }
    }
}

/// Locks a worker's cgroup; `None`: a live runner holds the lock, or the cgroup is gone.
fn lock(path: &Path) -> Option<Flock<File>> {
    let folder = File::open(path).ok()?;
    let locked = Flock::lock(folder, FlockArg::LockExclusiveNonblock).ok()?;
    let (ours, there) = (locked.metadata().ok()?, fs::metadata(path).ok()?);
    (ours.ino() == there.ino()).then_some(locked)
}

/// Sends SIGKILL to every process in a cgroup. Linux before 5.14 has no single operation for that: the cgroup is
/// frozen, so that nothing forks meanwhile, and thawed afterwards, although SIGKILL does not need that.
fn kill(path: &Path) {
    let Err(error) = write_to(&path.join("cgroup.kill"), "1") else { return };
    debug!(cgroup = %path.display(), %error, "cannot kill the worker's cgroup at once: killing its processes one by one");
    // The freezer, too, is missing before Linux 5.2.
    let freezer = path.join("cgroup.freeze");
    let _ = write_to(&freezer, "1");
    for pid in members(path) {
        // The process may have exited, or may not be ours.
        let id = processes::look_at(pid).ok().flatten().map(|process| process.id);
        if let Some(Err(error)) = id.map(|id| processes::signal(id, Signal::SIGKILL)) {
            debug!(pid, %error, "cannot kill a process in the worker's cgroup");
        }
    }
    let _ = write_to(&freezer, "0");
}

/// The pids of the live processes in a cgroup and its descendants.
fn members(path: &Path) -> Vec<i32> {
    let folders = folders(path);
    let lists = folders.iter().filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
    lists.flat_map(|list| pids(&list)).collect()
}

/// Removes a cgroup and its descendants. Returns true if nothing is left of it.
fn remove(path: &Path) -> bool {
    // Descendants are removed first.
    folders(path).iter().rev().all(|folder| match fs::remove_dir(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            debug!(cgroup = %folder.display(), %error, "cannot remove a cgroup of the worker's yet");
            false
        }
        _ => true,
    })
}

/// Removes a cgroup as soon as the killed processes have left it. Calls `before` ahead of each attempt.
async fn removed_while(path: &Path, before: impl Fn()) -> bool {
    let end = Instant::now() + LEAVING;
    loop {
        before();
        if remove(path) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A cgroup and its descendants, parents before children.
fn folders(path: &Path) -> Vec<PathBuf> {
    let mut folders = vec![path.to_owned()];
    let mut next = 0;
    while let Some(folder) = folders.get(next) {
        let inside: Vec<PathBuf> = directories(folder).collect();
        folders.extend(inside);
        next += 1;
    }
    folders
}

fn directories(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let inside = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    inside.map(|entry| entry.path())
}

fn write_to(path: &Path, text: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(text.as_bytes())
}

/// Parses one pid a line. Processes of another PID namespace appear as 0 and are skipped.
fn pids(list: &str) -> Vec<i32> {
    list.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

/// The directory of the runner's own cgroup in the unified tree. `None` for the root, which is not the runner's.
fn place(own: &str, mounts: &str) -> Option<PathBuf> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (mounted, below) = folder(own, mounts, |kind| kind.starts_with("cgroup2 "))?;
    (below != Path::new("")).then(|| mounted.join(below))
}

/// Returns the mount point of the first hierarchy that matches `is_tree`, and the runner's own cgroup in it.
fn folder<'a>(own: &'a str, mounts: &'a str, is_tree: impl Fn(&str) -> bool) -> Option<(&'a Path, &'a Path)> {
    let (root, mounted) = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        is_tree(after).then_some(())?;
        let mut fields = before.split(' ').skip(3);
        Some((fields.next()?, fields.next()?))
    })?;
    // A container may see only a part of the tree.
    Some((Path::new(mounted), Path::new(own).strip_prefix(root).ok()?))
}

/// Returns true if systemd has delegated this cgroup. systemd marks delegated cgroups, in old versions in a way that
/// only root can read. A process without root that may write there can only have been given access by systemd, for
/// `User=`.
fn is_delegated(place: &Path) -> bool {
    let is_marked = |name: &&str| {
        let mut value = [0; 1];
        rustix::fs::getxattr(place, *name, &mut value[..]).is_ok() && value == *b"1"
    };
    if MARKS.iter().any(is_marked) {
        return true;
    }
    let may_write = nix::unistd::access(&place.join("cgroup.procs"), AccessFlags::W_OK).is_ok();
    may_write && !nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
24 1 0:22 / /proc rw - proc proc rw
31 30 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw
32 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
";

    #[test]
    fn the_runners_own_cgroup_is_found_where_the_unified_tree_is_mounted() {
        let own = "9:name=systemd:/other\n0::/system.slice/start-worker.service\n";
        let expected = "/sys/fs/cgroup/unified/system.slice/start-worker.service";
        assert_eq!(place(own, HYBRID), Some(PathBuf::from(expected)));
        let unified = "30 23 0:26 /machine/a /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(place("0::/machine/a/b/c\n", unified), Some(PathBuf::from("/sys/fs/cgroup/b/c")));
    }

    #[test]
    fn a_root_and_a_tree_that_is_not_seen_are_nobodys() {
        let elsewhere = "30 23 0:26 /machine/a /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let outside = "30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for (own, mounts) in [
            ("0::/\n", HYBRID),
            ("0::/machine/a\n", elsewhere),
            ("0::/machine/other\n", elsewhere),
            ("0::/a\n", outside),
            ("9:name=systemd:/a\n", HYBRID),
            ("0::/a\n", "24 1 0:22 / /proc rw - proc proc rw\n"),
            ("", ""),
        ] {
            assert_eq!(place(own, mounts), None, "{own} {mounts}");
        }
    }

    #[test]
    fn what_nobody_has_marked_is_not_delegated_to_root() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_delegated(folder.path()));
        assert!(!is_delegated(Path::new("/nowhere")));
    }

    /// A directory in place of a cgroup, with the file that a cgroup has from the beginning.
    fn worker_cgroup(unit: &Path, name: &str) -> PathBuf {
        let path = unit.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_lock_that_somebody_holds_costs_no_runner_its_cgroup() {
        let folder = tempfile::tempdir().unwrap();
        let path = worker_cgroup(folder.path(), NAME);
        let held = lock(&path).unwrap();
        // A lock on the unit's own cgroup does not prevent it, either.
        let units = Flock::lock(File::open(folder.path()).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        let cgroups = WorkerCgroups::below(folder.path().to_owned());
        // A plain directory has no `cgroup.procs` to open.
        assert_eq!(cgroups.make().unwrap_err().kind(), ErrorKind::NotFound);
        let second = folder.path().join(format!("{NAME}-2"));
        assert_eq!(fs::metadata(&second).unwrap().mode() & 0o777, MODE);
        drop((held, units));
        drop(cgroups);
        assert!(!path.exists() && !second.exists());
    }

    #[test]
    fn a_cgroup_whose_lock_is_held_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = worker_cgroup(folder.path(), NAME);
        let _held = lock(&path).unwrap();
        assert!(lock(&path).is_none());
        drop(WorkerCgroups::below(folder.path().to_owned()));
        assert!(path.exists());
    }

    #[test]
    fn what_is_not_in_sight_is_no_process() {
        assert_eq!(pids("0\n17\n\n4711\nx\n"), [17, 4711]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_a_kernel_cannot_kill_a_cgroup_its_processes_are_killed_one_by_one() {
        use std::os::unix::process::ExitStatusExt;
        let folder = tempfile::tempdir().unwrap();
        let cgroups = WorkerCgroups::below(folder.path().to_owned());
        let inside = worker_cgroup(folder.path(), NAME).join("inside");
        fs::create_dir_all(&inside).unwrap();
        let mut stale = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(inside.join("cgroup.procs"), format!("{}\n", stale.id())).unwrap();
        cgroups.end_stale().await;
        assert_eq!(stale.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn cgroups_that_a_worker_has_made_inside_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = worker_cgroup(folder.path(), NAME);
        fs::create_dir_all(path.join("a/b/c")).unwrap();
        fs::create_dir_all(path.join("d")).unwrap();
        assert!(remove(&path));
        assert!(!path.exists());
        assert!(remove(&path));
    }
}
