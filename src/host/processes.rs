//! The host's processes as `/proc` shows them, and signals that reach a given process but never a later one with the
//! same pid.
//!
//! A process is alive as long as one of its threads is. `/proc` shows only the state of the main thread: a process
//! whose main thread has exited shows `Z` and continues to run.
//!
//! A process that hangs while it executes a program (its last file on a FUSE server has to be closed first) blocks
//! every reader of the files that only a debugger may see: `environ`, `wchan`, `stack`, and on Linux 6.18 `stat`.
//! `status`, `children` and `cgroup` never block. Only [`has_in_environment`] reads a file that can block; it must run
//! on a thread that may be lost.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgid, getsid};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

/// Enough for all required fields of `/proc/PID/status`. They are followed by a list of any length.
const STATUS_SIZE: usize = 1024;

/// Enough for all required fields of `/proc/PID/stat`.
const STAT_SIZE: usize = 1024;

/// The file system of pidfds since Linux 6.9, where an inode identifies one process until the next boot.
const PIDFS: u64 = 0x5049_4446;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Distinguishes the process from a later one with the same pid.
    pub id: Id,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// True if at least one thread is alive.
    pub alive: bool,
    /// The main thread's state, a letter of proc(5).
    pub state: char,
    /// The name of its program, truncated by the kernel to 15 bytes.
    pub command: String,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, state {})", self.id.pid, self.command, self.state)
    }
}

/// Distinguishes a process from a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id {
    pub pid: i32,
    /// The inode of its pidfd; before Linux 6.9 its start time, in clock ticks since the boot.
    pub birth: u64,
}

impl Id {
    /// `None`: there is no process with this pid.
    fn of(pid: i32) -> io::Result<Option<Self>> {
        match open(pid) {
            Ok(Some(pidfd)) if pidfds_have_inodes() => {
                Ok(Some(Self { pid, birth: rustix::fs::fstat(&pidfd)?.st_ino }))
            }
            Ok(None) => Ok(None),
            Ok(Some(_)) | Err(rustix::io::Errno::NOSYS) => {
                Ok(start_time(pid)?.map(|birth| Self { pid, birth }))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Opens a pidfd; `None`: there is no process with this pid.
fn open(pid: i32) -> rustix::io::Result<Option<OwnedFd>> {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(opened) => Ok(Some(opened)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Determined once, because the running kernel does not change.
fn pidfds_have_inodes() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
        own.and_then(rustix::fs::fstatfs).is_ok_and(|found| u64::try_from(found.f_type) == Ok(PIDFS))
    })
}

/// All visible processes of the host.
#[derive(Debug)]
pub struct Walk {
    /// In ascending order of their pids.
    pub processes: Vec<Process>,
    /// True if the kernel hides some of them (`hidepid`, `ProtectProc=`).
    pub hides: bool,
}

/// Lists all processes of the host. A process that ends meanwhile is left out.
pub fn walk() -> io::Result<Walk> {
    const INIT: i32 = 1;
    // `/proc` is unmounted, or belongs to another PID namespace.
    let own = fs::read_link("/proc/self")?;
    if own.to_str() != Some(nix::unistd::getpid().to_string().as_str()) {
        return Err(io::Error::other("it belongs to another PID namespace"));
    }
    let mut walk = Walk { processes: Vec::new(), hides: false };
    let mut lists_init = false;
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        lists_init |= pid == INIT;
        match look_at(pid) {
            Ok(found) => walk.processes.extend(found),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => walk.hides = true,
            Err(error) => return Err(error),
        }
    }
    walk.hides |= !lists_init;
    Ok(walk)
}

/// Describes one process, dead or alive; `None`: there is none with this pid.
pub fn look_at(pid: i32) -> io::Result<Option<Process>> {
    let Some(id) = Id::of(pid)? else { return Ok(None) };
    let Some(status) = read_start(pid, "status", STATUS_SIZE)? else { return Ok(None) };
    let Some(found) = Status::parse(&status) else { return Ok(None) };
    let of = Some(Pid::from_raw(pid));
    let (Some(group), Some(session)) = (known(getpgid(of)), known(getsid(of))) else { return Ok(None) };
    let alive = match found.state {
        'X' => false,
        // A dead main thread is counted until the process is reaped.
        'Z' => threads(pid) > 1,
        _ => true,
    };
    Ok(Some(Process {
        id,
        parent: found.parent,
        group,
        session,
        alive,
        state: found.state,
        command: found.command,
    }))
}

/// The number of a group or session. `None`: the process is gone. 0, which no group has: a security module hides the
/// number.
fn known(answer: nix::Result<Pid>) -> Option<i32> {
    match answer {
        Ok(number) => Some(number.as_raw()),
        Err(Errno::ESRCH) => None,
        Err(_) => Some(0),
    }
}

/// The number of a process's threads, zombies included.
fn threads(pid: i32) -> u64 {
    /// The links of the folder itself.
    const LINKS: u64 = 2;
    fs::metadata(format!("/proc/{pid}/task")).map_or(0, |folder| folder.nlink().saturating_sub(LINKS))
}

/// Reads the beginning of a file of a process; `None` if the process is gone.
fn read_start(pid: i32, file: &str, size: usize) -> io::Result<Option<Vec<u8>>> {
    let mut start = vec![0; size];
    // A single read, because the kernel writes the content as one piece.
    match File::open(format!("/proc/{pid}/{file}")).and_then(|mut file| file.read(&mut start)) {
        Ok(length) => {
            start.truncate(length);
            Ok(Some(start))
        }
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The pids of a process's children. The kernel may omit one while another exits. Fails if the kernel has no
/// `CONFIG_PROC_CHILDREN`.
pub fn children(pid: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    let threads = match fs::read_dir(format!("/proc/{pid}/task")) {
        Err(error) if is_gone(&error) => return Ok(found),
        threads => threads?,
    };
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // The thread exists and the file does not: the kernel lacks it.
            Err(error) if is_gone(&error) && thread.path().exists() => return Err(error),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The number of attempts to read an empty environment, because it is empty for a moment while a program is being
/// executed.
const LOOKS: usize = 10;

/// Returns true if an entry (`NAME=value`) of the environment with which a process was executed matches. The
/// environment can only be read through a live thread; that of a zombie is empty. Blocks, perhaps for as long as the
/// process lives.
pub fn has_in_environment(pid: i32, is_entry: impl Fn(&[u8]) -> bool) -> bool {
    for _ in 0..LOOKS {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let environments = threads.filter_map(|thread| fs::read(thread.path().join("environ")).ok());
        let Some(environment) = environments.max_by_key(Vec::len) else { return false };
        if !environment.is_empty() {
            return environment.split(|byte| *byte == 0).any(is_entry);
        }
        std::thread::yield_now();
    }
    false
}

/// Sends a signal to exactly this process. A process that has ended is not an error.
pub fn signal(id: Id, signal: Signal) -> io::Result<()> {
    let Some(number) = rustix::process::Signal::from_named_raw(signal as i32) else { return Ok(()) };
    let opened = match open(id.pid) {
        Ok(Some(opened)) => opened,
        Ok(None) => return Ok(()),
        // Linux before 5.3.
        Err(rustix::io::Errno::NOSYS) => return signal_by_pid(id, signal),
        Err(error) => return Err(error.into()),
    };
    // Checked after the descriptor was opened: if the pid still belongs to this process, the descriptor does, too.
    let birth =
        if pidfds_have_inodes() { Some(rustix::fs::fstat(&opened)?.st_ino) } else { start_time(id.pid)? };
    if birth != Some(id.birth) {
        return Ok(());
    }
    match pidfd_send_signal(&opened, number) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn signal_by_pid(id: Id, signal: Signal) -> io::Result<()> {
    if start_time(id.pid)? != Some(id.birth) {
        return Ok(());
    }
    match nix::sys::signal::kill(Pid::from_raw(id.pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns true if the process, or its thread, has ended.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// The required fields of `/proc/PID/status`.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    command: String,
    state: char,
    parent: i32,
}

impl Status {
    /// Each line is a name, a tab and a value; a newline in the command's name is escaped (proc(5)).
    fn parse(text: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(text);
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"))
        };
        Some(Self {
            command: field("Name")?.to_owned(),
            state: field("State")?.chars().next()?,
            parent: field("PPid")?.parse().ok()?,
        })
    }
}

/// The start time of a process, in clock ticks since the boot, for kernels whose pidfds do not identify a process.
fn start_time(pid: i32) -> io::Result<Option<u64>> {
    Ok(read_start(pid, "stat", STAT_SIZE)?.as_deref().and_then(parse_start_time))
}

/// Parses `4711 (a name) S 1 …`. The name can contain anything, also `)`, so fields are counted from the last `)`
/// (proc(5)).
fn parse_start_time(line: &[u8]) -> Option<u64> {
    /// Counted from the state.
    const START: usize = 19;
    let rest = line.get(memchr::memrchr(b')', line)? + 1..)?;
    std::str::from_utf8(rest).ok()?.split_ascii_whitespace().nth(START)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_status_is_read_whatever_the_name_of_the_program() {
        let text = b"Name:\tState:\\nPPid: 1) (\nUmask:\t0022\nState:\tD (disk sleep)\nTgid:\t42\nPPid:\t7\nGroups:\t1 2";
        let status = Status::parse(text).unwrap();
        assert_eq!((status.command.as_str(), status.state, status.parent), ("State:\\nPPid: 1) (", 'D', 7));
        for text in [&b""[..], b"Name:\tx\n", b"Name:\tx\nState:\t\nPPid:\t1\n", b"State:\tR\nPPid:\t1"] {
            assert_eq!(Status::parse(text), None);
        }
    }

    #[test]
    fn a_start_time_follows_the_last_parenthesis() {
        let line = "42 (a) R 7 (b) Z 17 40 41 0 -1 4 5 6 7 8 9 10 11 12 20 0 1 0 123456 1 2 3";
        assert_eq!(parse_start_time(line.as_bytes()), Some(123_456));
        for line in [&b"42 (a) S 17"[..], b")(", b""] {
            assert_eq!(parse_start_time(line), None);
        }
        assert!(start_time(nix::unistd::getpid().as_raw()).unwrap().is_some());
    }

    #[test]
    fn a_process_that_has_exited_is_there_and_dead_until_it_is_waited_for() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let begun = std::time::Instant::now();
        while look_at(pid).unwrap().unwrap().alive {
            assert!(begun.elapsed() < std::time::Duration::from_secs(20), "it lives");
            std::thread::yield_now();
        }
        assert_eq!(look_at(pid).unwrap().map(|process| process.state), Some('Z'));
        child.wait().unwrap();
        assert_eq!(look_at(pid).unwrap(), None);
    }

    #[test]
    fn this_very_process_is_seen() {
        let own = nix::unistd::getpid().as_raw();
        let walk = walk().unwrap();
        assert!(walk.processes.iter().any(|process| process.id.pid == own && process.alive));
        assert!(!has_in_environment(own, |entry| entry == b"NOBODY_SETS_THIS=1"));
    }

    #[test]
    fn a_later_process_with_the_same_pid_is_not_signalled() {
        let mut child = Command::new("sleep").arg("1000").env("MADE_UP", "1").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = look_at(pid).unwrap().unwrap();
        assert!(children(nix::unistd::getpid().as_raw()).unwrap().contains(&pid));
        // The spawn returns before the kernel shows the environment.
        let begun = std::time::Instant::now();
        while !has_in_environment(pid, |entry| entry == b"MADE_UP=1") {
            assert!(begun.elapsed() < std::time::Duration::from_secs(20), "the environment is never shown");
            std::thread::yield_now();
        }
        assert_eq!((process.group, process.session), {
            let own = look_at(nix::unistd::getpid().as_raw()).unwrap().unwrap();
            (own.group, own.session)
        });
        let later = Id { pid, birth: process.id.birth + 1 };
        signal(later, Signal::SIGKILL).unwrap();
        signal(process.id, Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        signal(process.id, Signal::SIGKILL).unwrap();
    }
}
