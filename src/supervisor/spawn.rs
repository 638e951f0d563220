//! The spawn itself: isolates the worker from the runner between fork and exec.
#![expect(unsafe_code, reason = "pre_exec runs between fork and exec; close_range has no safe wrapper")]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};

use crate::host::{faults, oom, terminal};

/// The account of a worker, looked up before the fork.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    /// All groups of the account.
    pub(super) groups: Vec<Gid>,
}

/// The marks that distinguish a worker's processes from all others.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// The entrance of the worker's cgroup.
    pub(super) cgroup: Option<OwnedFd>,
    /// The name and the value of an environment variable.
    pub(super) token: (String, String),
}

/// The entrances that a worker's process uses before it executes its program.
#[derive(Debug, Default)]
pub(super) struct Entrances {
    /// The entrance of its cgroup.
    pub(super) cgroup: Option<OwnedFd>,
    /// The entrance through which its process group is lent the terminal.
    pub(super) terminal: Option<OwnedFd>,
}

/// Adds the properties of every worker: its own process group, the parent-death signal, its OOM score, its account, and
/// none of the runner's open files and ignored signals. (The standard library empties the signal mask.)
///
/// The command must be spawned from a thread that lives as long as the runner, because the parent-death signal follows
/// that thread.
pub(super) fn set_apart(
    command: &mut Command,
    account: Option<Account>,
    oom_score_adj: i16,
    entrances: Entrances,
) {
    command.process_group(0);
    // First, because it would not be allowed after setuid.
    oom::set_for_child(command, oom_score_adj);
    let parent = nix::unistd::getpid();
    let child = move || {
        close_on_exec();
        if let Some(entrance) = &entrances.terminal {
            // While SIGTSTP is still caught: a process that Ctrl-Z stopped here would keep the runner waiting for the
            // exec.
            terminal::join(entrance);
        }
        // A wrapper (`nohup`, a shell's `&`) may have made the runner ignore signals, which a worker and all its tasks
        // would inherit. (The standard library only empties the mask and resets SIGPIPE.)
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
            // The runner died before the line above, so the signal will not come.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the closure makes only system calls (setgroups, setgid, setuid, prctl, write, send, recv, close_range,
    // sigaction, getppid) on data that was allocated before the fork; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(child) };
}

/// Marks all descriptors that the runner inherited, and that the worker must not get, as close-on-exec.
fn close_on_exec() {
    // SAFETY: close_range with these arguments only sets a flag on descriptors. Kernels without it (before 5.11) return
    // an error, and the descriptors that Rust opened have the flag anyway.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Best effort: without a cgroup, the worker's processes are found in other ways.
fn join(entrance: &OwnedFd) {
    let _ = nix::unistd::write(entrance, b"0");
}

fn become_account(account: &Account) -> io::Result<()> {
    nix::unistd::setgroups(&account.groups)?;
    nix::unistd::setgid(account.gid)?;
    nix::unistd::setuid(account.uid)?;
    Ok(())
}
