//! The time at which the host booted: `btime` in `/proc/stat`, proc(5).

use std::path::Path;

use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// The boot time; `None` if it is unknown.
pub fn boot_time() -> Option<Timestamp> {
    read(Path::new("/proc/stat"))
}

/// The kernel's name for this boot, random(4); `None` where it cannot be told.
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// The time since the boot, including the time that the host was suspended. No change of the host's clock affects it.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

fn read(stat: &Path) -> Option<Timestamp> {
    parse(&std::fs::read_to_string(stat).ok()?)
}

fn parse(stat: &str) -> Option<Timestamp> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Timestamp::from_second(seconds.trim().parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_boot_time_is_read() {
        let stat = "cpu  1 2 3\nctxt 5\nbtime 1764000000\nprocesses 7\n";
        assert_eq!(parse(stat).unwrap().to_string(), "2025-11-24T16:00:00Z");
    }

    #[test]
    fn what_cannot_be_told_is_left_out() {
        for stat in ["", "btime\n", "btime soon\n", "xbtime 5\n"] {
            assert_eq!(parse(stat), None, "{stat:?}");
        }
        assert_eq!(read(Path::new("/nowhere")), None);
    }
}
