//! A cgroup of the worker's own, below the runner's: what lives in it can be found and ended, whatever it has done.
//!
//! Version 2 alone, or the unified tree of a hybrid host. No controllers are enabled, and the runner stays where systemd
//! has put it: in the unit's root cgroup. cgroups(7), and systemd's `CGROUP_DELEGATION`. All of it is best effort: where
//! the runner's cgroup is not delegated to it, there is none, and nothing fails.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{AccessFlags, Pid};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Its name below the runner's own: no other program's.
const NAME: &str = "start-worker.worker";

/// How systemd marks what it has delegated: since version 251, and before (which root alone can read).
const MARKS: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// How long the dead may take to leave it.
const LEAVING: Duration = Duration::from_secs(2);

/// How often it is tried whether they have.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The worker's cgroup, one for all its starts. Dropping it removes it, where nothing lives in it.
#[derive(Debug)]
pub struct WorkerCgroup {
    path: PathBuf,
    /// The runner's own cgroup. Its lock tells a runner that lives from one that was killed.
    _runners: Flock<File>,
}

impl WorkerCgroup {
    /// Below the runner's own cgroup, where that is delegated to it, and to it alone.
    pub fn below_runner() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let place = place(&own, &mounts)?;
        if !is_delegated(&place) {
            debug!(cgroup = %place.display(), "the runner's cgroup is not delegated to it: the worker stays in it");
            return None;
        }
        Self::below(&place)
    }

    /// Below this one; `None`: another runner has one there, or it cannot be used.
    fn below(place: &Path) -> Option<Self> {
        let lock = File::open(place).and_then(|folder| {
            Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
        });
        match lock {
            Ok(lock) => Some(Self { path: place.join(NAME), _runners: lock }),
            Err(error) => {
                debug!(cgroup = %place.display(), %error, "no cgroup for the worker: another runner may have one here");
                None
            }
        }
    }

    /// Ends what lives in the one of an earlier runner, that was killed.
    pub async fn end_stale(&self) {
        if !self.path.exists() {
            return;
        }
        let processes = self.processes().len();
        self.kill();
        if self.removed_while(|| self.kill_each()).await {
            info!(cgroup = %self.path.display(), processes, "killed what an earlier runner's worker has left in its cgroup");
        } else {
            warn!(cgroup = %self.path.display(), "what an earlier runner's worker has left cannot be killed: going on");
        }
    }

    /// Makes it, where it is not there yet. Whoever writes `0` here joins it.
    pub fn entrance(&self) -> Option<OwnedFd> {
        let made = match fs::create_dir(&self.path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => File::options().write(true).open(self.path.join("cgroup.procs")),
        };
        match made {
            Ok(entrance) => {
                debug!(cgroup = %self.path.display(), "the worker gets a cgroup of its own");
                Some(entrance.into())
            }
            Err(error) => {
                debug!(cgroup = %self.path.display(), %error, "cannot make a cgroup for the worker: it gets none");
                None
            }
        }
    }

    /// Who lives in it, and in those that were made inside. The dead are left out.
    pub fn processes(&self) -> Vec<Pid> {
        let folders = self.folders();
        let lists = folders.iter().filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
        lists.flat_map(|list| pids(&list)).collect()
    }

    /// SIGKILL to all that is in it, at once. Kernels before 5.14 cannot.
    pub fn kill(&self) {
        let file = File::options().write(true).open(self.path.join("cgroup.kill"));
        match file.and_then(|mut file| file.write_all(b"1")) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                debug!(cgroup = %self.path.display(), %error, "cannot kill the worker's cgroup");
            }
            _ => {}
        }
    }

    /// SIGKILL to one after the other: what kernels before 5.14 leave to us. Said again until none is
    /// left: they may start others meanwhile.
    fn kill_each(&self) {
        for pid in self.processes() {
            // It may have ended, and may not be ours.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Removes it, and those that were made inside: whether nothing is left of it.
    pub fn remove(&self) -> bool {
        // Those inside go first.
        self.folders().iter().rev().all(|folder| match fs::remove_dir(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                debug!(cgroup = %folder.display(), %error, "cannot remove a cgroup of the worker's yet");
                false
            }
            _ => true,
        })
    }

    /// The same, as soon as the dead have left it, which takes a moment.
    pub async fn removed(&self) -> bool {
        self.removed_while(|| {}).await
    }

    /// The same; before each try this is done.
    async fn removed_while(&self, before: impl Fn()) -> bool {
        let end = Instant::now() + LEAVING;
        loop {
            before();
            if self.remove() {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// It and all below, each before what is inside.
    fn folders(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.path.clone()];
        let mut next = 0;
        while let Some(folder) = folders.get(next) {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let inside = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let inside: Vec<PathBuf> = inside.map(|entry| entry.path()).collect();
            folders.extend(inside);
            next += 1;
        }
        folders
    }
}

impl Drop for WorkerCgroup {
    fn drop(&mut self) {
        self.remove();
    }
}

/// One a line. Those of another PID namespace are 0, and nobody's.
fn pids(list: &str) -> Vec<Pid> {
    list.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).map(Pid::from_raw).collect()
}

/// The folder of the runner's own cgroup in the unified tree. Not the root: that is not the runner's.
fn place(own: &str, mounts: &str) -> Option<PathBuf> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (root, mounted) = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then_some(())?;
        let mut fields = before.split(' ').skip(3);
        Some((fields.next()?, fields.next()?))
    })?;
    // A container may see a part of the tree alone.
    let below = Path::new(own).strip_prefix(root).ok()?;
    (below != Path::new("")).then(|| Path::new(mounted).join(below))
}

/// systemd marks what it delegates. Who may write there and is not root can only have been given it: by systemd to
/// `User=`, also where an old one marks it in a way that root alone can read.
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

    #[test]
    fn a_cgroup_has_one_runner_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = WorkerCgroup::below(folder.path());
        assert!(first.is_some());
        assert!(WorkerCgroup::below(folder.path()).is_none());
        drop(first);
        assert!(WorkerCgroup::below(folder.path()).is_some());
        assert!(WorkerCgroup::below(Path::new("/nowhere")).is_none());
    }

    #[test]
    fn what_is_not_in_sight_is_no_process() {
        let found: Vec<i32> = pids("0\n17\n\n4711\nx\n").into_iter().map(Pid::as_raw).collect();
        assert_eq!(found, [17, 4711]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_a_kernel_cannot_kill_a_cgroup_its_processes_are_killed_one_by_one() {
        use std::os::unix::process::ExitStatusExt;
        let folder = tempfile::tempdir().unwrap();
        let cgroup = WorkerCgroup::below(folder.path()).unwrap();
        let inside = folder.path().join(NAME).join("inside");
        fs::create_dir_all(&inside).unwrap();
        let mut stale = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(inside.join("cgroup.procs"), format!("{}\n", stale.id())).unwrap();
        cgroup.end_stale().await;
        assert_eq!(stale.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn cgroups_that_a_worker_has_made_inside_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let cgroup = WorkerCgroup::below(folder.path()).unwrap();
        fs::create_dir_all(folder.path().join(NAME).join("a/b/c")).unwrap();
        fs::create_dir_all(folder.path().join(NAME).join("d")).unwrap();
        assert!(cgroup.remove());
        assert!(!folder.path().join(NAME).exists());
        assert!(cgroup.remove());
    }
}
