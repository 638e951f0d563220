//! Processes that a worker may leave behind: `spawn KIND FLAG…`.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getpgrp, getppid, getsid, setsid};
use serde_json::json;

use crate::LIFETIME;
use crate::execute::{Worker, exit, pause};
use crate::record::{Moment, Record};

const KINDS: [&str; 8] = ["child", "group", "session", "daemon", "zombie", "leaderless", "chain", "bomb"];
const FLAGS: [&str; 7] =
    ["ignore-term", "handle-term", "hold-stdout", "hold-stderr", "with-zombie", "stopped", "wiped"];

/// Prefixes of the flags that name a cgroup and a file.
const CGROUP: &str = "cgroup=";
const CLOSES: &str = "closes=";

/// Time after which a chain of forks, or a fork bomb, ends by itself.
const CHAIN: Duration = Duration::from_secs(30);

/// More than any test allows, but harmless to a machine without limits.
const BOMB: usize = 500;

/// The description of a descendant.
#[derive(Debug, Clone)]
pub(crate) struct Descendant {
    kind: String,
    flags: Vec<String>,
}

impl Descendant {
    /// Reads `KIND FLAG…`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace().map(str::to_owned);
        let kind = words.next().unwrap_or_default();
        let flags: Vec<String> = words.collect();
        if !KINDS.contains(&kind.as_str()) {
            return Err(format!("no such kind of descendant: `{kind}`"));
        }
        let names = |flag: &str| [CGROUP, CLOSES].iter().any(|known| flag.starts_with(known));
        let known = |flag: &&String| FLAGS.contains(&flag.as_str()) || names(flag);
        match flags.iter().find(|flag| !known(flag)) {
            Some(flag) => Err(format!("no such flag of a descendant: `{flag}`")),
            None => Ok(Self { kind, flags }),
        }
    }

    /// Spawns it, and waits until it is alive in its place.
    pub(crate) fn spawn(&self, worker: &Worker) {
        let token = format!("{:?}-{}", std::thread::current().id(), Moment::now().since_boot());
        let child = abandon(self.command(&self.kind, &token));
        let recorded = format!("\"token\":\"{token}\"");
        while worker.record.lines_with(&recorded) == 0 {
            pause(Duration::from_millis(1));
        }
        if self.kind == "daemon" {
            waitpid(child, None).expect("cannot wait for the daemon's parent");
        }
    }

    fn command(&self, kind: &str, token: &str) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.args(["descendant", kind, token]).args(&self.flags).stdin(Stdio::null());
        if !self.flags.iter().any(|flag| flag == "hold-stdout") {
            command.stdout(Stdio::null());
        }
        if !self.flags.iter().any(|flag| flag == "hold-stderr") {
            command.stderr(Stdio::null());
        }
        if kind == "group" {
            command.process_group(0);
        }
        command
    }
}

/// Starts a process that is never waited for.
fn abandon(mut command: Command) -> Pid {
    #[expect(clippy::zombie_processes, reason = "leaving processes behind is what this is for")]
    let child = command.spawn().expect("cannot spawn a descendant");
    Pid::from_raw(child.id().cast_signed())
}

/// The main function of a descendant: `descendant KIND TOKEN FLAG…`.
pub(crate) fn live(args: &[String], record: &Record) {
    let [_, kind, token, flags @ ..] = args else { return };
    let descendant = Descendant { kind: kind.clone(), flags: flags.to_vec() };
    if kind == "session" || kind == "daemon" {
        setsid().expect("cannot have a session of its own");
    }
    if kind == "daemon" {
        abandon(descendant.command("daemonised", token));
        return;
    }
    let has = |name: &str| flags.iter().any(|flag| flag == name);
    if kind == "wiped" {
        // The inherited descriptor holds the lock.
        return pause(LIFETIME);
    }
    if kind != "zombie" {
        hold_lives();
    }
    if let Some(cgroup) = flags.iter().find_map(|flag| flag.strip_prefix(CGROUP)) {
        std::fs::create_dir_all(cgroup).expect("cannot make the cgroup");
        std::fs::write(format!("{cgroup}/cgroup.procs"), "0").expect("cannot join the cgroup");
    }
    if has("ignore-term") {
        let ignored = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(libc::SIGTERM, ignored).expect("cannot ignore SIGTERM");
    }
    if has("handle-term") {
        let now = Arc::new(AtomicBool::new(true));
        signal_hook::flag::register_conditional_shutdown(libc::SIGTERM, 0, now)
            .expect("cannot handle SIGTERM");
    }
    if has("with-zombie") {
        let zombie = Descendant { kind: "zombie".to_owned(), flags: Vec::new() };
        abandon(zombie.command("zombie", &format!("{token}-child")));
    }
    let session = getsid(None).map(Pid::as_raw).unwrap_or_default();
    let parent = getppid().as_raw();
    let place =
        json!({"kind": kind, "token": token, "pgid": getpgrp().as_raw(), "sid": session, "ppid": parent});
    record.event("descendant", place);
    if has("wiped") {
        let mut naked = descendant.command("wiped", token);
        let _ = naked.env_clear().exec();
        return;
    }
    if let Some(file) = flags.iter().find_map(|flag| flag.strip_prefix(CLOSES)) {
        let _closed_on_exec = File::open(file).expect("cannot open the file");
        let _ = Command::new("sleep").arg(LIFETIME.as_secs().to_string()).exec();
        return;
    }
    if has("stopped") {
        raise(Signal::SIGSTOP).expect("cannot stop");
    }
    match kind.as_str() {
        "zombie" => {}
        "leaderless" => exit_main_thread(),
        "chain" => fork_for_ever(),
        "bomb" => fork_as_often_as_possible(),
        _ => pause(LIFETIME),
    }
}

/// The file on which all descendants hold a lock.
fn lives() -> Option<PathBuf> {
    let mut path = std::env::var_os("TEST_WORKER_RECORD")?;
    path.push(".lives");
    Some(path.into())
}

/// Locks the file with a descriptor that children inherit.
fn hold_lives() {
    let Some(path) = lives() else { return };
    let file: File = OpenOptions::new().create(true).append(true).open(path).expect("cannot open the lock");
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).expect("cannot have the lock inherited");
    let lock = Flock::lock(file, FlockArg::LockShared).map_err(|(_, errno)| errno);
    // Never unlocked, nor closed.
    std::mem::forget(lock.expect("cannot lock"));
}

/// Leaves a process that `/proc` shows as a zombie, but that is alive.
fn exit_main_thread() {
    std::thread::spawn(|| {
        pause(LIFETIME);
        exit(0);
    });
    #[expect(unsafe_code, reason = "only this thread is to end, and nothing is to be cleaned up")]
    // SAFETY: nothing is borrowed from this thread.
    unsafe {
        libc::syscall(libc::SYS_exit, 0);
    }
}

/// Forks one process after the other, none of which lives long enough to be seen twice.
fn fork_for_ever() {
    let end = std::time::Instant::now() + CHAIN;
    let lives = lives();
    while std::time::Instant::now() < end && lives.as_ref().is_none_or(|path| path.exists()) {
        #[expect(unsafe_code, reason = "std has no fork")]
        // SAFETY: this process has one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                let _ = setsid();
            }
            // The process table is full at the moment.
            Err(_) => {}
            #[expect(unsafe_code, reason = "exit handlers would take time")]
            // SAFETY: there is nothing to clean up.
            Ok(ForkResult::Parent { .. }) => unsafe { libc::_exit(0) },
        }
    }
}

/// Forks processes that do nothing, in their own sessions.
fn fork_as_often_as_possible() {
    let end = std::time::Instant::now() + CHAIN;
    let lives = lives();
    let mut forks = 0;
    while std::time::Instant::now() < end && lives.as_ref().is_none_or(|path| path.exists()) {
        #[expect(unsafe_code, reason = "std has no fork")]
        // SAFETY: this process has one thread.
        match if forks < BOMB { unsafe { fork() } } else { Err(nix::errno::Errno::EAGAIN) } {
            Ok(ForkResult::Child) => {
                let _ = setsid();
                return pause(LIFETIME);
            }
            Ok(ForkResult::Parent { .. }) => forks += 1,
            // The process table is full: retry until there is a free slot.
            Err(_) => pause(Duration::from_millis(1)),
        }
    }
}
