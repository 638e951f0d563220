//! Protection of the runner itself: the OOM killer spares it, and its memory, which holds credentials, is not dumped.
//! The runner's children do not inherit this protection.
#![expect(unsafe_code, reason = "pre_exec runs between fork and exec")]

use std::ffi::CString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl;
use tracing::debug;

/// With this score the kernel never kills a process.
const NEVER: &str = "-1000";

/// Tells the OOM killer to spare the runner. Without `CAP_SYS_RESOURCE` the score is not changed.
pub fn spare_runner() {
    match std::fs::write("/proc/self/oom_score_adj", NEVER) {
        Ok(()) => debug!(score = NEVER, "the OOM killer spares the runner"),
        Err(error) => debug!(%error, "cannot tell the OOM killer to spare the runner"),
    }
}

/// Keeps the runner's memory out of core dumps and away from debuggers of the same user.
pub fn forbid_dumps() {
    if let Err(error) = prctl::set_dumpable(false) {
        debug!(%error, "cannot keep the runner's memory out of core dumps");
    }
}

/// Gives the command's process its own OOM score, which it would otherwise inherit from the runner.
pub fn set_for_child(command: &mut Command, score: i16) {
    let score = CString::new(score.to_string()).unwrap_or_default();
    let privileged = nix::unistd::geteuid().is_root();
    let child = move || {
        if !privileged {
            // Without this, /proc/self belongs to root because the runner is not dumpable, and the score cannot be
            // written.
            let _ = prctl::set_dumpable(true);
        }
        write_score(&score);
        Ok(())
    };
    // SAFETY: the closure makes only system calls (prctl, open, write, close) on data that was allocated before the fork;
    // it neither allocates nor takes a lock.
    unsafe { command.pre_exec(child) };
}

/// Best effort: without permission, the inherited score remains.
fn write_score(score: &CString) {
    // SAFETY: plain system calls on a string literal and a buffer that outlives them.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, score.as_ptr().cast(), score.as_bytes().len());
            libc::close(file);
        }
    }
}
