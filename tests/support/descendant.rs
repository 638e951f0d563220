//! What a worker may leave behind: `spawn KIND FLAG…`.
//!
//! KIND is where the descendant lives: `child` (in the worker's process group), `group` (in one of its own), `session`
//! (in one of its own), `daemon` (its parent is gone as well), or `zombie` (it has exited, and nobody asks).
//! FLAGs: `ignore-term`, `hold-stdout`, `hold-stderr` (it keeps the worker's pipe open), `with-zombie` (it never asks
//! after a child of its own). The statement ends when the descendant has recorded itself.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpgrp, getppid, getsid, setsid};
use serde_json::json;

use crate::LIFETIME;
use crate::execute::{Worker, pause};
use crate::record::{Moment, Record};

const KINDS: [&str; 5] = ["child", "group", "session", "daemon", "zombie"];
const FLAGS: [&str; 4] = ["ignore-term", "hold-stdout", "hold-stderr", "with-zombie"];

/// What to leave behind.
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
        match flags.iter().find(|flag| !FLAGS.contains(&flag.as_str())) {
            Some(flag) => Err(format!("no such flag of a descendant: `{flag}`")),
            None => Ok(Self { kind, flags }),
        }
    }

    /// Makes it, and waits until it lives where it should.
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

/// Starts a process that nobody will ask after.
fn abandon(mut command: Command) -> Pid {
    #[expect(clippy::zombie_processes, reason = "leaving processes behind is what this is for")]
    let child = command.spawn().expect("cannot spawn a descendant");
    Pid::from_raw(child.id().cast_signed())
}

/// The life of a descendant: `descendant KIND TOKEN FLAG…`.
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
    if flags.iter().any(|flag| flag == "ignore-term") {
        let ignored = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(libc::SIGTERM, ignored).expect("cannot ignore SIGTERM");
    }
    if flags.iter().any(|flag| flag == "with-zombie") {
        let zombie = Descendant { kind: "zombie".to_owned(), flags: Vec::new() };
        abandon(zombie.command("zombie", &format!("{token}-child")));
    }
    let session = getsid(None).map(Pid::as_raw).unwrap_or_default();
    let parent = getppid().as_raw();
    let place =
        json!({"kind": kind, "token": token, "pgid": getpgrp().as_raw(), "sid": session, "ppid": parent});
    record.event("descendant", place);
    if kind != "zombie" {
        pause(LIFETIME);
    }
}
