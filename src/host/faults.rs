//! Fault signals (SIGSEGV and others) that another process sends with kill(2).
//!
//! A real fault (SIGSEGV, SIGBUS and similar signals, abort(3)) ends the runner as usual, and the kernel then sends its
//! worker SIGTERM. The same signal from another process is a request to stop: the handler forwards it as SIGQUIT, whose
//! receiver calls [`take_handed_on`] for the original signal.
#![expect(unsafe_code, reason = "signal handlers, and the dispositions that the C library refuses to set")]

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

pub const FAULTS: [Signal; 7] = [
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGSEGV,
    Signal::SIGSYS,
];

/// Signals that are ignored, because a handler would not work. The first two are sent to a background process that uses
/// its terminal: when they are ignored, the log can be written there; a handler would interrupt the write again and
/// again. The C library uses the third for the cancellation of threads, which nothing here does.
const IGNORED: [libc::c_int; 3] = [libc::SIGTTIN, libc::SIGTTOU, 32];

/// The dispositions before [`catch`], in the order of [`FAULTS`]. They include the standard library's handler for stack
/// overflows.
static BEFORE: [OnceLock<SigAction>; FAULTS.len()] = [const { OnceLock::new() }; FAULTS.len()];

/// The last forwarded signal and its sender.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static SENDER: AtomicI32 = AtomicI32::new(0);

/// Installs the handler for the fault signals.
pub fn catch() -> io::Result<()> {
    let handler = SigHandler::SigAction(handle);
    // The handler runs on the alternate stack, because a stack overflow is one of these faults. That stack is small, so
    // no other handler may run on it at the same time.
    let action = SigAction::new(handler, SaFlags::SA_ONSTACK | SaFlags::SA_RESTART, SigSet::all());
    for (signal, before) in FAULTS.into_iter().zip(&BEFORE) {
        // SAFETY: the handler makes only async-signal-safe calls: atomics, sigaction, kill and raise.
        let replaced = unsafe { sigaction(signal, &action) }?;
        // The cell is only set once.
        let _ = before.set(replaced);
    }
    for signal in IGNORED {
        set_raw_disposition(signal, libc::SIG_IGN);
    }
    Ok(())
}

/// Takes the last signal that was forwarded as SIGQUIT, and its sender's process id.
pub fn take_handed_on() -> Option<(libc::c_int, libc::pid_t)> {
    let signal = SIGNAL.swap(0, Ordering::AcqRel);
    (signal != 0).then(|| (signal, SENDER.load(Ordering::Acquire)))
}

/// Resets every signal to its default disposition. Called in a new process before it executes a program, which would
/// otherwise inherit the ignored signals.
pub fn reset_all() {
    const LAST: libc::c_int = 64;
    for signal in 1..=LAST {
        set_raw_disposition(signal, libc::SIG_DFL);
    }
}

/// Sets `SIG_DFL` or `SIG_IGN` by the raw system call, because the C library refuses its own two signals.
fn set_raw_disposition(signal: libc::c_int, disposition: libc::sighandler_t) {
    // The kernel's struct sigaction on 64-bit machines: handler, flags, restorer, mask.
    let action: [u64; 4] = [disposition as u64, 0, 0, 0];
    let size_of_mask = 8_usize;
    // SAFETY: the kernel reads four words, all of which exist; neither disposition is a function. For SIGKILL and
    // SIGSTOP the call fails and changes nothing.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            action.as_ptr(),
            std::ptr::null_mut::<u64>(),
            size_of_mask,
        )
    };
}

extern "C" fn handle(number: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let own = nix::unistd::getpid().as_raw();
    // SAFETY: the kernel hands over a valid siginfo_t; with a code of 0 or less it has a sender.
    let (code, sender) = unsafe { ((*info).si_code, (*info).si_pid()) };
    if code <= 0 && sender != own {
        SENDER.store(sender, Ordering::Release);
        SIGNAL.store(number, Ordering::Release);
        // SAFETY: kill has no precondition.
        unsafe { libc::kill(own, libc::SIGQUIT) };
        return;
    }
    for (signal, before) in FAULTS.into_iter().zip(&BEFORE) {
        if signal as libc::c_int == number
            && let Some(before) = before.get()
        {
            // SAFETY: the disposition was in force before.
            let _ = unsafe { sigaction(signal, before) };
        }
    }
    // The other faults recur when the faulty instruction is retried.
    if matches!(number, libc::SIGTRAP | libc::SIGSYS) {
        // SAFETY: raise has no precondition; the signal is delivered when this handler has returned.
        unsafe { libc::raise(number) };
    }
}
