//! The kernel's counters of a cgroup: out-of-memory kills and CPU time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::folder;

/// The total number of processes that the kernel has killed for lack of memory in the runner's cgroup and, in version
/// 2, in its descendants. `None`: no such counter exists (no memory controller, or the root cgroup of a host).
///
/// Reads `oom_kill` and not `oom`, because a limit that is reached without a kill is no loss. A kill for lack of memory
/// on the whole host counts, too.
pub fn oom_kills() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    number(&memory_file(&own, &mounts)?, "oom_kill")
}

/// The file with the number of kills: in the memory controller's own tree on hybrid and legacy hosts, otherwise in the
/// unified tree.
fn memory_file(own: &str, mounts: &str) -> Option<PathBuf> {
    let legacy = own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|controller| controller == "memory").then_some(path)
    });
    let is_memory = |kind: &str| {
        let options = kind.strip_prefix("cgroup ").and_then(|rest| rest.split(' ').next_back());
        options.is_some_and(|options| options.split(',').any(|option| option == "memory"))
    };
    if let Some(path) = legacy {
        let (mounted, below) = folder(path, mounts, is_memory)?;
        return Some(mounted.join(below).join("memory.oom_control"));
    }
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (mounted, below) = folder(path, mounts, |kind| kind.starts_with("cgroup2 "))?;
    Some(mounted.join(below).join("memory.events"))
}

/// The CPU time used in a cgroup and its descendants.
pub(super) fn cpu_time(cgroup: &Path) -> Option<Duration> {
    number(&cgroup.join("cpu.stat"), "usage_usec").map(Duration::from_micros)
}

/// Reads a value from a flat keyed file.
fn number(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_that_of_its_whole_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memory.events");
        fs::write(&file, "low 0\noom 7\noom_kill_group 5\noom_kill 3\n").unwrap();
        assert_eq!((number(&file, "oom_kill"), number(&file, "oom")), (Some(3), Some(7)));
        fs::write(&file, "oom_kill_group 5\noom_kill many\n").unwrap();
        assert_eq!((number(&file, "oom_kill"), number(&folder.path().join("none"), "oom")), (None, None));
    }

    #[test]
    fn the_kills_are_counted_where_the_memory_controller_is() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let legacy = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        for (own, mounts, file) in [
            ("0::/system.slice/a\n", unified, "/sys/fs/cgroup/system.slice/a/memory.events"),
            // A container has its own cgroup namespace.
            ("0::/\n", unified, "/sys/fs/cgroup/memory.events"),
            ("4:memory:/b\n0::/a\n", legacy, "/sys/fs/cgroup/memory/b/memory.oom_control"),
        ] {
            assert_eq!(memory_file(own, mounts), Some(PathBuf::from(file)), "{own}");
        }
        assert_eq!(memory_file("4:memory:/b\n", unified), None);
        assert_eq!(memory_file("", unified), None);
    }

    #[test]
    fn cpu_time_is_in_microseconds() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cpu.stat"), "usage_usec 1500000\nuser_usec 1\n").unwrap();
        assert_eq!(cpu_time(folder.path()), Some(Duration::from_millis(1500)));
    }
}
