//! The host, before and after: a machine under test must not have changed it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The roots of the cgroup hierarchies.
pub(crate) const HIERARCHIES: [&str; 3] =
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

/// The cgroups that systemd makes in the root of a hierarchy that it considers its own.
const OF_SYSTEMD: [&str; 3] = ["init.scope", "system.slice", "user.slice"];

/// The visible state of the host: its name, its mounts, and the cgroups of each process.
#[derive(Debug)]
pub(crate) struct Host {
    name: String,
    mounts: BTreeSet<String>,
    groups: BTreeSet<String>,
    /// By pid and start, for pids are used again.
    processes: BTreeMap<(i32, String), String>,
}

impl Host {
    pub(crate) fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap();
        let groups = HIERARCHIES.iter().flat_map(|hierarchy| {
            OF_SYSTEMD
                .iter()
                .map(move |name| format!("{hierarchy}/{name}"))
                .filter(|group| Path::new(group).exists())
        });
        Self {
            name: read("/proc/sys/kernel/hostname"),
            mounts: read("/proc/self/mountinfo").lines().map(str::to_owned).collect(),
            groups: groups.collect(),
            processes: fs::read_dir("/proc")
                .unwrap()
                .flatten()
                .filter_map(|entry| process(&entry.path()))
                .collect(),
        }
    }

    /// Fails the test if the machine of this name has changed the host. Other programs may change the host meanwhile,
    /// so only the possible effects of such a machine are compared.
    pub(crate) fn assert_untouched_by(&self, name: &str) {
        let now = Self::look();
        assert_eq!(now.name, self.name, "the host has another name");
        assert_eq!(now.groups, self.groups, "the host has systemd's cgroups");
        let gone: Vec<_> = self.mounts.difference(&now.mounts).collect();
        assert!(gone.is_empty(), "mounts of the host are gone: {gone:?}");
        let new: Vec<_> =
            now.mounts.difference(&self.mounts).filter(|line| line.contains("/run/root")).collect();
        assert!(new.is_empty(), "mounts of the machine are on the host: {new:?}");
        for (process, group) in &now.processes {
            let before = self.processes.get(process).unwrap_or(group);
            let taken =
                group.contains(name) || OF_SYSTEMD.iter().any(|name| group.contains(&format!(":/{name}")));
            assert!(!taken || group == before, "{process:?} was moved from {before} to {group}");
        }
    }
}

/// Fails the test where something of the machine of this name, which has ended, is still there.
pub(crate) fn assert_nothing_left_of(name: &str) {
    let left: Vec<_> = Host::look().processes.into_iter().filter(|(_, group)| group.contains(name)).collect();
    assert!(left.is_empty(), "processes of the machine are left: {left:?}");
    for hierarchy in HIERARCHIES {
        let group = Path::new(hierarchy).join(name);
        assert!(!group.exists(), "{} is left", group.display());
    }
}

/// One live process: its pid, its start, its cgroups.
fn process(folder: &Path) -> Option<((i32, String), String)> {
    let pid = folder.file_name()?.to_str()?.parse().ok()?;
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    if rest.trim_start().starts_with('Z') {
        return None;
    }
    let started = rest.split_whitespace().nth(19)?.to_owned();
    Some(((pid, started), fs::read_to_string(folder.join("cgroup")).ok()?))
}
