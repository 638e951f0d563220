//! The spawn itself: between fork and exec the worker is set apart from the runner.
#![expect(unsafe_code, reason = "pre_exec runs between fork and exec; close_range has no safe wrapper")]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};

use crate::host::{faults, oom, terminal};

/// Whom a worker runs as, looked up before the fork.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    /// All groups that the account is in.
    pub(super) groups: Vec<Gid>,
}

/// What tells a worker's processes from all others.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// The entrance of the cgroup that the worker joins.
    pub(super) cgroup: Option<OwnedFd>,
    /// The name and the value of an environment variable.
    pub(super) token: (String, String),
}

/// The place that a worker's process enters before it executes its program.
#[derive(Debug, Default)]
pub(super) struct Entrances {
    /// The entrance of the cgroup that it joins.
    pub(super) cgroup: Option<OwnedFd>,
    /// The entrance through which its process group is lent the terminal.
    pub(super) terminal: Option<OwnedFd>,
}

/// Adds what every worker gets: a process group of its own, the parent-death signal, its OOM score, its account, and
/// none of the runner's open files and ignored signals. (The standard library empties the signal mask.)
///
/// The command must be spawned from a thread that lives as long as the runner: the parent-death signal follows it.
pub(super) fn set_apart(
    command: &mut Command,
    account: Option<Account>,
    oom_score_adj: i16,
    entrances: Entrances,
) {
    command.process_group(0);
    // First: after setuid it would not be allowed.
    oom::set_for_child(command, oom_score_adj);
    let parent = nix::unistd::getpid();
    let child = move || {
        close_on_exec();
        if let Some(entrance) = &entrances.terminal {
            // While SIGTSTP is caught: a process that Ctrl-Z stops here keeps the runner waiting for the exec.
            terminal::join(entrance);
        }
        // A wrapper (`nohup`, a shell's `&`) may have made the runner ignore signals; a worker, and every task of it,
        // would inherit that. (The standard library empties the mask and resets SIGPIPE alone.)
        faults::reset_all();
        if let Some(entrance) = &entrances.cgroup {
            join(entrance);
        }
        if let Some(account) = &account {
            become_account(account)?;
        }
        // After setuid, which clears it.
        prctl::set_pdeathsig(Signal::SIGTERM)?;
        if nix::unistd::getppid() != parent {
            // The runner died before the line above: nobody would tell us.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the closure makes only system calls (setgroups, setgid, setuid, prctl, write, send, recv, close_range,
    // sigaction, getppid) on data that was allocated before the fork; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(child) };
}

/// What the runner itself was started with, and has no business in the worker.
fn close_on_exec() {
    // SAFETY: close_range with these arguments only sets a flag on descriptors. Kernels without it (before 5.11) answer
    // with an error, and the descriptors that Rust opened have the flag anyway.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Best effort: without, the worker is ended as where it has no cgroup of its own.
fn join(entrance: &OwnedFd) {
    let _ = nix::unistd::write(entrance, b"0");
}

fn become_account(account: &Account) -> io::Result<()> {
    nix::unistd::setgroups(&account.groups)?;
    nix::unistd::setgid(account.gid)?;
    nix::unistd::setuid(account.uid)?;
    Ok(())
}
