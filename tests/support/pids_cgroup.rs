//! A cgroup with a limit on processes and threads (`pids.max`), below the cgroup of the process that creates it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Time limit for killed processes to be gone.
const GONE: Duration = Duration::from_secs(20);

/// The cgroup. Dropping it kills its processes and removes it.
pub struct PidsCgroup(PathBuf);

impl PidsCgroup {
    /// The error is the reason why no such cgroup is possible.
    pub fn new(most: u64) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let parent = parent()?;
        let folder = parent.join(format!("start-worker-pids-{}-{number}", std::process::id()));
        let failed = |what: &Path| {
            let what = what.display().to_string();
            move |cause| format!("cannot write {what}: {cause}")
        };
        fs::create_dir(&folder).map_err(failed(&folder))?;
        let made = Self(folder);
        made.set_most(&most.to_string()).map_err(failed(&made.0.join("pids.max")))?;
        Ok(made)
    }

    /// A number, or `max`.
    pub fn set_most(&self, most: &str) -> std::io::Result<()> {
        fs::write(self.0.join("pids.max"), most)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The number of processes and threads that were refused.
    pub fn refusals(&self) -> u64 {
        let events = fs::read_to_string(self.0.join("pids.events")).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("max ")?.parse().ok());
        count.unwrap_or_default()
    }

    /// The pids of its processes.
    fn members(&self) -> Vec<i32> {
        let list = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Drop for PidsCgroup {
    fn drop(&mut self) {
        let end = Instant::now() + GONE;
        while fs::remove_dir(&self.0).is_err() && self.0.exists() && Instant::now() < end {
            for pid in self.members() {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
                    .ok();
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// The cgroup below which it is created: this process's own in the tree of version 1; in the unified tree the root, if
/// that has already enabled the controller. Nothing is enabled.
fn parent() -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|cause| cause.to_string())?;
    let mounted = |kind: &str, has: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, place, found, options, ..] = fields[..] else { return None };
            (found == kind && has(place, options)).then(|| PathBuf::from(place))
        })
    };
    let of_version_1 = |_: &str, options: &str| options.split(',').any(|option| option == "pids");
    if let Some(tree) = mounted("cgroup", &of_version_1) {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| line.split_once(":pids:").map(|(_, path)| path.to_owned()));
        let below = tree.join(own.unwrap_or_default().trim_start_matches('/'));
        return Ok(if below.is_dir() { below } else { tree });
    }
    let hands_down = |place: &str, _: &str| {
        let handed = fs::read_to_string(Path::new(place).join("cgroup.subtree_control")).unwrap_or_default();
        handed.split_whitespace().any(|controller| controller == "pids")
    };
    mounted("cgroup2", &hands_down).ok_or_else(|| "no tree of cgroups has a pids controller here".to_owned())
}
