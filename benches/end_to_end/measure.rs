//! Numbers: medians, and what /proc says about a process.

use std::fs;
use std::time::Duration;

/// The middle one.
pub(crate) fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|one, other| one.partial_cmp(other).expect("comparable numbers"));
    *values.get(values.len() / 2).expect("at least one value")
}

/// A count in larger units.
#[expect(clippy::cast_precision_loss, reason = "nothing here has more than 52 bits, or is exact")]
pub(crate) fn ratio(count: u64, unit: f64) -> f64 {
    count as f64 / unit
}

/// `2.3 ms`.
pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

/// A number behind a name in a file of /proc/PID; none where it cannot be read.
fn number(pid: u32, file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Proportional memory in KiB: all, and anonymous.
pub(crate) fn pss(pid: u32) -> Option<(u64, u64)> {
    Some((number(pid, "smaps_rollup", "Pss")?, number(pid, "smaps_rollup", "Pss_Anon")?))
}

/// The most memory ever resident, in KiB.
pub(crate) fn peak(pid: u32) -> Option<u64> {
    number(pid, "status", "VmHWM")
}

pub(crate) fn threads(pid: u32) -> Option<u64> {
    number(pid, "status", "Threads")
}

fn tasks(pid: u32) -> Vec<String> {
    let Ok(folder) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    folder.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// How often any of its threads has gone to sleep.
pub(crate) fn sleeps(pid: u32) -> u64 {
    let of = |task: &String| number(pid, &format!("task/{task}/status"), "voluntary_ctxt_switches");
    tasks(pid).iter().filter_map(of).sum()
}

/// The time that its threads have spent on a processor.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let of = |task: &String| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{task}/schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks(pid).iter().filter_map(of).sum())
}
