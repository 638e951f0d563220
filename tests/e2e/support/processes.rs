//! Looks at processes through /proc.

use std::{fmt, fs};

/// A process as /proc shows it.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    parent: i32,
    pub(crate) name: String,
    /// `R`, `S`, `Z` …
    state: char,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({}, child of {})", self.pid, self.name, self.state, self.parent)
    }
}

/// All processes of the host.
fn all() -> Vec<Process> {
    let folder = fs::read_dir("/proc").unwrap();
    let pids = folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(look_at).collect()
}

/// One process; none where it does not exist. (`stat` could hang: tests/e2e/stuck.rs.)
fn look_at(pid: i32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    let (name, state, parent) = (field("Name")?.to_owned(), field("State")?.chars().next()?, field("PPid")?);
    Some(Process { pid, parent: parent.parse().ok()?, name, state })
}

/// The children of a process, zombies included.
pub(crate) fn children(parent: i32) -> Vec<Process> {
    all().into_iter().filter(|process| process.parent == parent).collect()
}

/// The processes whose environment has this entry; zombies have none.
pub(crate) fn with_environment(entry: &str) -> Vec<Process> {
    let marked = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|found| found == entry.as_bytes())
    };
    all().into_iter().filter(marked).collect()
}

/// The most memory that a process ever had resident, in KiB.
pub(crate) fn peak_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
