//! The host's processes as `/proc` shows them, and signals that reach a process and no later one with its pid.
//!
//! A process is alive as long as one of its threads is. The state in `/proc/PID/stat` is that of the main thread alone: a
//! process whose main thread has exited shows `Z` and goes on running. `stat` also counts the threads, so that one file
//! tells both; a pidfd would cost three more system calls for each process of the host.

use std::fs::{self, File};
use std::io::{self, Read};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

/// More than `/proc/PID/stat` has before and in the last field that is needed.
const STAT_SIZE: usize = 1024;

/// A process, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its pid and its start time.
    pub id: Id,
    /// The pid of its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Whether a thread of it lives.
    pub alive: bool,
    /// The main thread's state, a letter of proc(5).
    pub state: char,
    /// Whether SIGCHLD tells its parent of its end. It is so for whatever has executed a program, or has lost its parent.
    pub tells_of_its_end: bool,
    /// The name of its program, cut by the kernel after 15 bytes.
    pub command: String,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, state {})", self.id.pid, self.command, self.state)
    }
}

/// Tells a process from a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id {
    /// The pid.
    pub pid: i32,
    /// Clock ticks between the boot and its start.
    pub start: u64,
}

/// All processes of the host that can be seen.
#[derive(Debug)]
pub struct Walk {
    /// In ascending order of their pids.
    pub processes: Vec<Process>,
    /// Whether the kernel hides some of them (`hidepid`, `ProtectProc=`).
    pub hides: bool,
}

/// Looks at all processes of the host. A process that ends meanwhile is left out.
///
/// # Errors
///
/// `/proc` cannot be read, or not whole.
pub fn walk() -> io::Result<Walk> {
    const INIT: i32 = 1;
    // Unmounted, or that of another PID namespace.
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

/// One process, dead or alive; `None`: there is none with this pid.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn look_at(pid: i32) -> io::Result<Option<Process>> {
    let mut line = [0; STAT_SIZE];
    // One read: the kernel writes the line as one piece.
    let read = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut line));
    match read {
        Ok(length) => Ok(parse_stat(pid, line.get(..length).unwrap_or_default())),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The pids of a process's children. The kernel may leave out one while another exits.
///
/// # Errors
///
/// `/proc` cannot be read, or the kernel has no `CONFIG_PROC_CHILDREN`.
pub fn children(pid: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    let threads = match fs::read_dir(format!("/proc/{pid}/task")) {
        Err(error) if is_gone(&error) => return Ok(found),
        threads => threads?,
    };
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // No such file, although the thread is there: the kernel lacks it.
            Err(error) if is_gone(&error) && thread.path().exists() => return Err(error),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The number of times that an empty environment is read: it is empty for a moment while a program is being executed.
const LOOKS: usize = 10;

/// Returns whether an entry (`NAME=value`) of the environment that a process was executed with is like this. The
/// environment can only be read through a thread that lives; that of a zombie is empty.
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

/// Sends a signal to this very process; one that has ended is no error.
///
/// # Errors
///
/// The process cannot be signalled.
pub fn signal(id: Id, signal: Signal) -> io::Result<()> {
    let (Some(pid), Some(number)) =
        (rustix::process::Pid::from_raw(id.pid), rustix::process::Signal::from_named_raw(signal as i32))
    else {
        return Ok(());
    };
    let opened = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(opened) => opened,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        // Linux before 5.3.
        Err(rustix::io::Errno::NOSYS) => return signal_by_pid(id, signal),
        Err(error) => return Err(error.into()),
    };
    // Looked at after it was opened: if this is the process, so is the descriptor.
    if look_at(id.pid)?.is_none_or(|process| process.id != id) {
        return Ok(());
    }
    match pidfd_send_signal(&opened, number) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn signal_by_pid(id: Id, signal: Signal) -> io::Result<()> {
    if look_at(id.pid)?.is_none_or(|process| process.id != id) {
        return Ok(());
    }
    match nix::sys::signal::kill(nix::unistd::Pid::from_raw(id.pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The process, or its thread, has ended.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// `4711 (a name) S 1 …`: the name can hold anything, also `)`, so fields are counted from the last one (proc(5)).
fn parse_stat(pid: i32, line: &[u8]) -> Option<Process> {
    const STATE: usize = 0;
    const PARENT: usize = 1;
    const GROUP: usize = 2;
    const SESSION: usize = 3;
    const THREADS: usize = 17;
    const START: usize = 19;
    const EXIT_SIGNAL: usize = 35;
    let name_end = memchr::memrchr(b')', line)?;
    let name_start = memchr::memchr(b'(', line)? + 1;
    let rest = std::str::from_utf8(line.get(name_end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(EXIT_SIGNAL + 1).collect();
    let number = |field: usize| -> Option<i32> { fields.get(field)?.parse().ok() };
    let state = fields.get(STATE)?.chars().next()?;
    let threads = number(THREADS)?;
    Some(Process {
        id: Id { pid, start: fields.get(START)?.parse().ok()? },
        parent: number(PARENT)?,
        group: number(GROUP)?,
        session: number(SESSION)?,
        tells_of_its_end: number(EXIT_SIGNAL).is_none_or(|signal| signal == Signal::SIGCHLD as i32),
        // A dead main thread is counted until the process is reaped.
        alive: match state {
            'X' => false,
            'Z' => threads > 1,
            _ => true,
        },
        state,
        command: String::from_utf8_lossy(line.get(name_start..name_end)?).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const LINE: &str = "42 (a) R 7 (b) Z 17 40 41 0 -1 4 5 6 7 8 9 10 11 12 20 0 THREADS 0 123456 1 2 3";

    #[test]
    fn a_process_name_with_parentheses_and_spaces_is_skipped() {
        let process = parse_stat(42, LINE.replace("THREADS", "1").as_bytes()).unwrap();
        assert_eq!(process.id, Id { pid: 42, start: 123_456 });
        assert_eq!((process.parent, process.group, process.session), (17, 40, 41));
        assert_eq!((process.alive, process.command.as_str()), (false, "a) R 7 (b"));
    }

    #[test]
    fn a_process_whose_main_thread_alone_has_exited_is_alive() {
        assert!(parse_stat(42, LINE.replace("THREADS", "2").as_bytes()).unwrap().alive);
    }

    #[test]
    fn a_line_that_breaks_off_is_no_process() {
        assert_eq!(parse_stat(42, b"42 (a) S 17"), None);
        assert_eq!(parse_stat(42, b")("), None);
        assert_eq!(parse_stat(42, b""), None);
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
        let later = Id { pid, start: process.id.start + 1 };
        signal(later, Signal::SIGKILL).unwrap();
        signal(process.id, Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        signal(process.id, Signal::SIGKILL).unwrap();
    }
}
