//! Looks at processes through /proc.

use std::fs;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// By this environment variable all processes of a host are found.
pub(crate) const MARK: &str = "TEST_WORKER_MARK";

/// The processes whose environment has this entry, each with its arguments; zombies have none.
pub(crate) fn with_environment(entry: &str) -> Vec<(i32, String)> {
    let folder = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folder.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let marked = |pid: &i32| {
        // Of a process whose main thread has exited, the other threads have it.
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

/// Whether a process lives: it is there, and no zombie.
pub(crate) fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), None | Some('Z' | 'X')))
}

/// Returns true if a thread of a process waits for a FUSE server: SIGKILL may not end it.
pub(crate) fn waits_for_disk(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut places = threads.filter_map(|thread| fs::read_to_string(thread.path().join("wchan")).ok());
    places.any(|place| place == "request_wait_answer")
}

/// A line of a process' status, as a number.
pub(crate) fn status(pid: i32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Whether a descendant of a worker with this record lives, however it hides: each holds a lock.
pub(crate) fn descendant_lives(record: &Path) -> bool {
    let Ok(file) = fs::File::open(lock_of(record)) else { return false };
    Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err()
}

/// Ends chains of forks: nothing else catches them but a runner.
pub(crate) fn end_chains(record: &Path) {
    fs::remove_file(lock_of(record)).ok();
}

fn lock_of(record: &Path) -> PathBuf {
    let mut path = record.as_os_str().to_owned();
    path.push(".lives");
    path.into()
}

/// How many files it has open.
pub(crate) fn open_files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().count()
}
