//! Examines processes through /proc.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use nix::fcntl::{Flock, FlockArg};

/// A process as /proc shows it.
#[derive(Clone)]
pub struct Process {
    pub pid: i32,
    parent: i32,
    pub name: String,
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

/// One process; `None` if it does not exist. (`stat` could hang: tests/e2e/stuck.rs.)
fn look_at(pid: i32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    let (name, state, parent) = (field("Name")?.to_owned(), field("State")?.chars().next()?, field("PPid")?);
    Some(Process { pid, parent: parent.parse().ok()?, name, state })
}

/// The children of a process, zombies included.
pub fn children(parent: i32) -> Vec<Process> {
    all().into_iter().filter(|process| process.parent == parent).collect()
}

/// The processes whose environment has this entry; zombies have none.
pub fn with_environment(entry: &str) -> Vec<Process> {
    let marked = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|found| found == entry.as_bytes())
    };
    all().into_iter().filter(marked).collect()
}

/// The peak resident memory of a process, in KiB.
pub fn peak_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The environment variable that identifies a test's processes on the host.
pub const MARK: &str = "TEST_WORKER_MARK";

/// The processes whose environment has this entry, each with its arguments; zombies have none.
pub fn command_lines(entry: &str) -> Vec<(i32, String)> {
    let folder = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folder.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let marked = |pid: &i32| {
        // If the main thread has exited, the other threads still have the environment.
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        threads
            .filter_map(|thread| fs::read(thread.path().join("environ")).ok())
            .any(|environment| environment.split(|&byte| byte == 0).any(|found| found == entry.as_bytes()))
    };
    pids.filter(marked).map(|pid| (pid, arguments(pid))).collect()
}

fn arguments(pid: i32) -> String {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&text).replace('\0', " ").trim_end().to_owned()
}

/// Returns true if a process exists and is not a zombie.
pub fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), None | Some('Z' | 'X')))
}

/// Returns true if a thread of a process waits for a FUSE server: SIGKILL may not end it.
pub fn waits_for_disk(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut places = threads.filter_map(|thread| fs::read_to_string(thread.path().join("wchan")).ok());
    places.any(|place| place == "request_wait_answer")
}

/// A line of a process's status, as a number.
pub fn status(pid: i32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns true if a descendant of a worker with this record is alive, however it hides: each holds a lock.
pub fn descendant_lives(record: &Path) -> bool {
    let Ok(file) = fs::File::open(lock_of(record)) else { return false };
    Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err()
}

/// Ends chains of forks, which only a runner catches otherwise.
pub fn end_chains(record: &Path) {
    fs::remove_file(lock_of(record)).ok();
}

fn lock_of(record: &Path) -> PathBuf {
    let mut path = record.as_os_str().to_owned();
    path.push(".lives");
    path.into()
}

/// The number of open files.
pub fn open_files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().count()
}
