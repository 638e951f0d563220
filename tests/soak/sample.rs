//! The figures that are sampled once a second, and their evaluation.

use std::fmt;
use std::fs;
use std::time::Duration;

use test_support::processes;

/// The names of the columns.
pub(crate) const HEAD: &str = "t_s,rss_kib,pss_kib,anon_kib,fds,threads,cpu_s,lines,renewals,polls,crashes";

/// The runner's calls, counted by others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls {
    pub(crate) lines: u64,
    pub(crate) renewals: usize,
    pub(crate) polls: usize,
    pub(crate) crashes: usize,
}

/// One moment of the runner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) time: Duration,
    pub(crate) rss: u64,
    pub(crate) pss: u64,
    pub(crate) anon: u64,
    pub(crate) files: usize,
    pub(crate) threads: u64,
    /// Seconds, so far.
    pub(crate) cpu: f64,
    pub(crate) calls: Calls,
}

impl Sample {
    /// None: the kernel does not say.
    pub(crate) fn take(pid: i32, time: Duration, calls: Calls) -> Option<Self> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let of = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some(Self {
            time,
            rss: of("Rss")?,
            pss: of("Pss")?,
            anon: of("Pss_Anon")?,
            files: processes::open_files(pid),
            threads: processes::status(pid, "Threads")?,
            cpu: (ticks(11)? + ticks(12)?) / 100.0,
            calls,
        })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Calls { lines, renewals, polls, crashes } = self.calls;
        write!(
            f,
            "{:.1},{},{},{},{},{},{:.2},{lines},{renewals},{polls},{crashes}",
            self.time.as_secs_f64(),
            self.rss,
            self.pss,
            self.anon,
            self.files,
            self.threads,
            self.cpu,
        )
    }
}

/// A figure that must not grow: its name, its value, and the allowed growth from the beginning to the end.
type Figure = (&'static str, fn(&Sample) -> f64, f64);

pub(crate) const FIGURES: [Figure; 5] = [
    ("RSS, KiB", |sample| sample.rss as f64, 256.0),
    ("PSS, KiB", |sample| sample.pss as f64, 256.0),
    ("of that anonymous, KiB", |sample| sample.anon as f64, 128.0),
    ("open files", |sample| sample.files as f64, 0.5),
    ("threads", |sample| sample.threads as f64, 0.5),
];

/// The samples of the second quarter and of the last quarter. The first quarter includes the cost of the start.
fn parts(samples: &[Sample]) -> (&[Sample], &[Sample]) {
    let quarter = samples.len() / 4;
    (&samples[quarter..quarter * 2], &samples[samples.len() - quarter..])
}

fn mean(samples: &[Sample], figure: fn(&Sample) -> f64) -> f64 {
    samples.iter().map(figure).sum::<f64>() / samples.len().max(1) as f64
}

/// The figures that have grown; empty if there are too few samples.
pub(crate) fn flat(samples: &[Sample]) -> Vec<String> {
    let (early, late) = parts(samples);
    let grown = |(name, figure, allowed): &Figure| {
        let (early, late) = (mean(early, *figure), mean(late, *figure));
        (late > early + allowed)
            .then(|| format!("{name}: {early:.1} in the second quarter, {late:.1} in the last"))
    };
    FIGURES.iter().filter_map(grown).collect()
}

/// A table for people.
pub(crate) fn table(samples: &[Sample]) -> String {
    use fmt::Write;
    let (early, late) = parts(samples);
    let mut text =
        "| | mean of the second quarter | of the last | at most |\n| --- | --- | --- | --- |".to_owned();
    for (name, figure, _) in FIGURES {
        let most = samples.iter().map(figure).fold(0.0, f64::max);
        // Writing to a string does not fail.
        let _ =
            write!(text, "\n| {name} | {:.1} | {:.1} | {most:.0} |", mean(early, figure), mean(late, figure));
    }
    if let Some(last) = samples.last() {
        let seconds = last.time.as_secs_f64();
        let _ = write!(
            text,
            "\n\n{:.0} s: {} lines ({:.0} a second), {} renewals, {} polls, {} crashes; {:.1} s of CPU ({:.2} % of a core).",
            seconds,
            last.calls.lines,
            last.calls.lines as f64 / seconds,
            last.calls.renewals,
            last.calls.polls,
            last.calls.crashes,
            last.cpu,
            last.cpu / seconds * 100.0
        );
    }
    text
}
