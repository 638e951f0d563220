//! The time at which the host booted: `btime` in `/proc/stat`, proc(5).

use std::path::Path;

use jiff::Timestamp;

/// The boot time; `None` if it is unknown.
pub fn boot_time() -> Option<Timestamp> {
    read(Path::new("/proc/stat"))
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
