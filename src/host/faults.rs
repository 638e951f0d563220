//! The signals of a program's own faults, when another process sends them with kill(2).
//!
//! A real fault (SIGSEGV, SIGBUS and their like, abort(3)) ends the runner as it always does, and the kernel then sends
//! its worker SIGTERM. The same signal sent by somebody is a request to stop: it is handed on as SIGQUIT, whose receiver
//! asks here what it was.
#![expect(unsafe_code, reason = "signal handlers, and the dispositions that the C library refuses to set")]

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The signals of faults.
pub const FAULTS: [Signal; 7] = [
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGSEGV,
    Signal::SIGSYS,
];

/// Signals that are ignored, because a handler cannot be. The first two go to a background process that uses its
/// terminal: ignored, they let the log be written there; with a handler the write would be interrupted again and again.
/// The third is the C library's for the cancellation of a thread, which nothing here does.
const IGNORED: [libc::c_int; 3] = [libc::SIGTTIN, libc::SIGTTOU, 32];

/// The dispositions before [`catch`], in the order of [`FAULTS`]: the standard library's for a stack overflow, too.
static BEFORE: [OnceLock<SigAction>; FAULTS.len()] = [const { OnceLock::new() }; FAULTS.len()];

/// The last signal that was handed on, and its sender.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static SENDER: AtomicI32 = AtomicI32::new(0);

/// Catches the signals of faults.
pub fn catch() -> io::Result<()> {
    let handler = SigHandler::SigAction(handle);
    // On the alternate stack, because a stack overflow is one of these faults. That stack is small: no other handler
    // may run on it meanwhile.
    let action = SigAction::new(handler, SaFlags::SA_ONSTACK | SaFlags::SA_RESTART, SigSet::all());
    for (signal, before) in FAULTS.into_iter().zip(&BEFORE) {
        // SAFETY: the handler makes only async-signal-safe calls: atomics, sigaction, kill and raise.
        let replaced = unsafe { sigaction(signal, &action) }?;
        // Caught once.
        let _ = before.set(replaced);
    }
    for signal in IGNORED {
        set_raw_disposition(signal, libc::SIG_IGN);
    }
    Ok(())
}

/// Takes the signal that was handed on as SIGQUIT last, and its sender's process id.
pub fn take_handed_on() -> Option<(libc::c_int, libc::pid_t)> {
    let signal = SIGNAL.swap(0, Ordering::AcqRel);
    (signal != 0).then(|| (signal, SENDER.load(Ordering::Acquire)))
}

/// Gives every signal its default disposition. For a new process before it executes a program, which would inherit the
/// ignored ones.
pub fn reset_all() {
    const LAST: libc::c_int = 64;
    for signal in 1..=LAST {
        set_raw_disposition(signal, libc::SIG_DFL);
    }
}

/// Sets `SIG_DFL` or `SIG_IGN` by the system call itself: the C library refuses its own two signals.
fn set_raw_disposition(signal: libc::c_int, disposition: libc::sighandler_t) {
    // The kernel's struct sigaction on 64-bit machines: handler, flags, restorer, mask.
    let action: [u64; 4] = [disposition as u64, 0, 0, 0];
    let size_of_mask = 8_usize;
    // SAFETY: the kernel reads four words, which are there; neither disposition is a function. For SIGKILL and SIGSTOP
    // it fails, and changes nothing.
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
            // SAFETY: what was in force before.
            let _ = unsafe { sigaction(signal, before) };
        }
    }
    // The others come again by themselves when the faulty instruction is tried again.
    if matches!(number, libc::SIGTRAP | libc::SIGSYS) {
        // SAFETY: raise has no precondition; the signal is delivered when this handler has returned.
        unsafe { libc::raise(number) };
    }
}
