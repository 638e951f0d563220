//! Heap thresholds that return the memory of a large message to the system when it is freed.
#![cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "mallopt has no safe wrapper"))]

/// A buffer of at least this size, in bytes, gets a mapping of its own. (The output thread's usual block is smaller.)
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;

/// Makes large buffers return to the system as soon as they are freed. By default glibc keeps them once the first one
/// was freed: the largest message that a worker has ever sent would stay in the runner's memory.
pub fn bound_heap() {
    // SAFETY: the call takes no pointers, and no other thread exists yet.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE / 4);
    }
}
