//! A library for `LD_PRELOAD` that shifts a program's wall clock. Timers are not affected.
//!
//! `$SHIFTED_CLOCK` names a file of eight bytes: the offset in nanoseconds, in the machine's byte order. Writing to it
//! makes the program's clock jump.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

const SECOND: i64 = 1_000_000_000;

/// The mapped file; `None`: the clock is the host's.
fn shift() -> Option<&'static AtomicI64> {
    static SHIFT: OnceLock<Option<&'static AtomicI64>> = OnceLock::new();
    *SHIFT.get_or_init(|| {
        let file = File::open(std::env::var_os("SHIFTED_CLOCK")?).ok()?;
        #[expect(unsafe_code, reason = "memory that is shared with another program")]
        // SAFETY: a new mapping, of a file of eight bytes, which is never unmapped.
        let place = unsafe {
            libc::mmap(std::ptr::null_mut(), 8, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        #[expect(unsafe_code, reason = "memory that is shared with another program")]
        // SAFETY: pages are aligned, and atomic loads need no more than to read.
        (place != libc::MAP_FAILED).then(|| unsafe { &*place.cast::<AtomicI64>() })
    })
}

/// Replaces the C library's function.
///
/// # Safety
///
/// As for the C library's: `time` points to a place for the answer.
#[expect(unsafe_code, reason = "this is what a preloaded library is for")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the caller answers for `time`.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if result == 0
        && clock == libc::CLOCK_REALTIME
        && let Some(shift) = shift()
    {
        // SAFETY: the kernel has just written there.
        let time = unsafe { &mut *time };
        let nanoseconds = time.tv_nsec + shift.load(Ordering::Relaxed) % SECOND;
        time.tv_sec += shift.load(Ordering::Relaxed) / SECOND + nanoseconds.div_euclid(SECOND);
        time.tv_nsec = nanoseconds.rem_euclid(SECOND);
    }
    i32::try_from(result).unwrap_or(-1)
}
