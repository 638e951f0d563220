//! Memory that a burst of work has used, given back to the system: from then on the runner mostly waits.
//!
//! A start, and every call to Taskcluster, needs code that is not needed again for minutes or days (HTTP, TLS, YAML),
//! goes deep into the stack, and leaves holes in the heap. None of that comes back by itself: the kernel maps code in
//! blocks around what was wanted, and a stack stays as deep as it ever was. What is let go here costs a page fault where
//! it is needed again, and no read from the disk: the program's pages stay in the page cache until the host needs the room.
#![expect(unsafe_code, reason = "mallopt, malloc_trim and madvise have no safe wrappers")]

use std::ops::Range;

/// What may still be in use below the place on the stack where this module is: its own calls, a signal handler.
const STACK_IN_USE: usize = 8 << 10;

/// A page of memory, at most: no machine that workers run on has larger ones.
const PAGE: usize = if cfg!(target_arch = "x86_64") { 4 << 10 } else { 64 << 10 };

/// A buffer of this size has a mapping of its own, in bytes. (The output thread's usual block is smaller.)
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;

/// Gives back what nobody will miss, as soon as the task that runs now waits for something: the heap's holes, the stack
/// that was left, and the mapping of code.
///
/// Anything but Linux, or no `/proc`: it stays as it is.
pub fn give_back_soon() {
    // A task of its own is run by the runtime itself, where the stack is not deep.
    drop(tokio::spawn(async { give_back() }));
}

/// Makes large buffers go back to the system as soon as they are freed. By itself glibc keeps them once the first one was
/// freed: the largest message that a worker has ever sent would stay in the runner's memory.
pub fn bound_heap() {
    // SAFETY: it takes no pointers. It is called before there is another thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE / 4);
    }
}

fn give_back() {
    trim_heap();
    let here = 0_u8;
    let here = std::ptr::from_ref(&here).addr();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for range in maps.lines().filter_map(|line| spare(line, here)) {
        let_go(range);
    }
}

/// What of one mapping, a line of `proc_pid_maps(5)`, can be let go by somebody whose stack has come down to `here`.
fn spare(mapping: &str, here: usize) -> Option<Range<usize>> {
    let mut fields = mapping.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let (access, name) = (fields.next()?, fields.nth(3)?);
    match access {
        // Nobody can have written to it, so the file has all of it. (A debugger has: it loses its breakpoints.)
        "r-xp" if name.starts_with('/') => Some(range),
        // It grows downwards. Another thread's stack does not have this name.
        "rw-p" if name == "[stack]" && range.contains(&here) => {
            let unused = page_start(here.saturating_sub(STACK_IN_USE));
            Some(range.start..unused).filter(|range| !range.is_empty())
        }
        _ => None,
    }
}

fn page_start(address: usize) -> usize {
    address & !(PAGE - 1)
}

fn trim_heap() {
    // SAFETY: it takes no pointers, and may be called from any thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

fn let_go(range: Range<usize>) {
    // SAFETY: the range is code, which is read from its file again where it is run again, or a part of this thread's
    // stack that lies below all that is in use. What cannot be let go stays.
    unsafe {
        libc::madvise(std::ptr::without_provenance_mut(range.start), range.len(), libc::MADV_DONTNEED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: &str = "7ffc84cc0000-7ffc84ce6000 rw-p 00000000 00:00 0      [stack]";

    #[test]
    fn only_code_from_files_and_the_stack_that_is_not_in_use_can_be_spared() {
        let here = 0x7ffc_84ce_2830;
        for (line, spared) in [
            (
                "55c4f248b000-55c4f27a9000 r-xp 00167000 fe:00 131 /usr/bin/start-worker",
                Some(0x55c4_f248_b000..0x55c4_f27a_9000),
            ),
            (STACK, Some(0x7ffc_84cc_0000..0x7ffc_84ce_0000)),
            ("55c4f2323000-55c4f248b000 r--p 00000000 fe:00 131 /usr/bin/start-worker", None),
            ("55c4f27ce000-55c4f27d2000 rw-p 00000000 fe:00 131 /usr/bin/start-worker", None),
            ("55c4f248b000-55c4f27a9000 rwxp 00167000 fe:00 131 /usr/bin/start-worker", None),
            ("55c50d60f000-55c50d661000 rw-p 00000000 00:00 0 [heap]", None),
            ("7fcb23639000-7fcb2363b000 rw-p 00000000 00:00 0", None),
            ("7fff14d2c000-7fff14d2e000 r-xp 00000000 00:00 0 [vdso]", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(spare(line, here), spared, "{line}");
        }
    }

    #[test]
    fn a_stack_that_is_all_in_use_or_somebody_elses_is_left_alone() {
        for here in [0x7ffc_84cc_1fff, 0x7fcb_0000_0000] {
            assert_eq!(spare(STACK, here), None, "{here:x}");
        }
    }

    #[test]
    fn the_program_goes_on_as_before() {
        fn depth(left: u32) -> u64 {
            let room = [u64::from(left); 64];
            if left == 0 { 0 } else { std::hint::black_box(&room)[7] + depth(left - 1) }
        }
        let before: Vec<u64> = (0..100_000).collect();
        for _ in 0..3 {
            assert_eq!(depth(500), 125_250);
            give_back();
            assert_eq!(before.iter().sum::<u64>(), 4_999_950_000);
        }
    }
}
