//! The worker's output on its way to the log: lines, structured records, one giant line.
#![expect(clippy::cast_precision_loss, reason = "sizes and counts far below 2^52")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::measure::{Cost, Running, drain, field, in_turns, median, pause, run};
use crate::scene::Scene;
use crate::table::{Row, Target, thousands};

/// Rounds of measurements that take tenths of seconds.
const ROUNDS: usize = 15;

const LINES: usize = 1_000_000;
const LINE: usize = 100;
const GIANT: usize = 64 * 1024 * 1024;

/// One million lines to /dev/null.
pub(crate) fn into_null() -> Result<Vec<Row>> {
    let (scene, file) = Scene::with_cat(LINES, LINE)?;
    let pairs = in_turns(ROUNDS, || run(&mut scene.runner()), || cat(&file, Stdio::null()))?;
    let Throughput { ours, reference, ratio } = throughput(&pairs);
    let cpu = median(pairs.iter().map(|(ours, _)| ours.cpu));
    let cat_cpu = median(pairs.iter().map(|(_, reference)| reference.cpu));
    Ok(vec![Row {
        what: "worker output: 1 million lines of 100 bytes to /dev/null",
        go: "58 MB/s, 1.5 s CPU",
        today: format!("{} MB/s, {cpu:.2} s CPU", thousands(ours)),
        reference: format!("`cat` {} MB/s, {cat_cpu:.2} s CPU: {ratio:.2} × `cat`", thousands(reference)),
        targets: vec![
            Target::at_least(ours, 1000.0, "≥ 1,000 MB/s"),
            Target::at_least(ratio, 0.8, "≥ 0.8 × `cat`"),
            Target::at_most(cpu, 0.1, "≤ 0.1 s CPU"),
        ],
    }])
}

/// The same into a pipe that is read.
pub(crate) fn into_pipe() -> Result<Vec<Row>> {
    let (scene, file) = Scene::with_cat(LINES, LINE)?;
    let pairs = in_turns(ROUNDS, || read_log(&scene), || cat(&file, Stdio::piped()))?;
    let Throughput { ours, reference, ratio } = throughput(&pairs);
    Ok(vec![Row {
        what: "the same into a pipe that is read",
        go: "27 MB/s",
        today: format!("{} MB/s", thousands(ours)),
        reference: format!("`cat` {} MB/s: {ratio:.2} × `cat`", thousands(reference)),
        targets: vec![
            Target::at_least(ours, 400.0, "≥ 400 MB/s"),
            Target::at_least(ratio, 0.6, "≥ 0.6 × `cat`"),
        ],
    }])
}

/// Structured records to /dev/null.
pub(crate) fn structured() -> Result<Vec<Row>> {
    let count = LINES.to_string();
    let scene = Scene::with_worker(&["logs", &count])?;
    // All of them become lines of the log.
    read_log(&scene)?;
    let costs: Result<Vec<Cost>> = (0..ROUNDS).map(|_| run(&mut scene.runner())).collect();
    let rate = median(costs?.iter().map(|cost| LINES as f64 / cost.wall));
    Ok(vec![Row {
        what: "structured log messages (122 bytes each) to /dev/null",
        go: "192,000/s",
        today: format!("{}/s", thousands(rate)),
        reference: String::new(),
        targets: vec![Target::at_least(rate, 2e6, "≥ 2,000,000/s")],
    }])
}

/// One line of 64 MiB to /dev/null. Time and memory are measured in separate runs, because sampling the memory affects
/// the time.
pub(crate) fn long_line() -> Result<Vec<Row>> {
    let size = GIANT.to_string();
    let scene = Scene::with_worker(&["one-line", &size])?;
    let costs: Result<Vec<Cost>> = (0..ROUNDS).map(|_| run(&mut scene.runner())).collect();
    let time = median(costs?.iter().map(|cost| cost.wall));
    let scene = Scene::with_worker(&["one-line-and-pause", &size])?;
    let peaks: Result<Vec<f64>> = (0..3).map(|_| peak(&scene)).collect();
    let peak = peaks?.into_iter().fold(0.0, f64::max);
    Ok(vec![Row {
        what: "one line of 64 MiB",
        go: "80 s, 530 MiB",
        today: format!("{time:.2} s, {peak:.1} MiB"),
        reference: String::new(),
        targets: vec![
            Target::at_most(time, 0.2, "≤ 0.2 s"),
            Target::at_most(peak, 8.0, "≤ 8 MiB peak memory (VmHWM)"),
        ],
    }])
}

/// Megabytes of worker output a second, medians; the ratio is that of each pair.
struct Throughput {
    ours: f64,
    reference: f64,
    ratio: f64,
}

fn throughput(pairs: &[(Cost, Cost)]) -> Throughput {
    let rate = |cost: &Cost| (LINES * LINE) as f64 / 1e6 / cost.wall;
    Throughput {
        ours: median(pairs.iter().map(|(ours, _)| rate(ours))),
        reference: median(pairs.iter().map(|(_, reference)| rate(reference))),
        ratio: median(pairs.iter().map(|(ours, reference)| rate(ours) / rate(reference))),
    }
}

/// Runs the runner with a log that is read; it must have all that the worker wrote.
fn read_log(scene: &Scene) -> Result<Cost> {
    let mut running = Running::start(scene.runner().stderr(Stdio::piped()))?;
    let bytes = drain(running.child.stderr.take().ok_or("no log")?)?;
    let cost = running.end()?;
    if bytes < LINES * LINE {
        return Err(format!("{bytes} bytes in the log").into());
    }
    Ok(cost)
}

/// The same worker into another `cat` through a shell-like pipe, from the start of the first to the end of the second.
fn cat(file: &Path, sink: Stdio) -> Result<Cost> {
    let (reader, writer) = std::io::pipe()?;
    let began = Instant::now();
    let worker = Running::start(Command::new("cat").arg(file).stdin(Stdio::null()).stdout(writer))?;
    let mut cat = Running::start_since(began, Command::new("cat").stdin(reader).stdout(sink))?;
    if let Some(output) = cat.child.stdout.take() {
        let bytes = drain(output)?;
        if bytes != LINES * LINE {
            return Err(format!("`cat` gave {bytes} bytes").into());
        }
    }
    let cost = cat.end()?;
    worker.end()?;
    Ok(cost)
}

/// The most memory that the runner ever had, in MiB. (`ru_maxrss` would count what its parent had before the exec.)
fn peak(scene: &Scene) -> Result<f64> {
    let running = Running::start(&mut scene.runner())?;
    let mut peak = None;
    while let Some(kib) =
        fs::read_to_string(running.proc_file("status")).ok().and_then(|text| field(&text, "VmHWM"))
    {
        peak = Some(kib);
        pause(Duration::from_millis(2));
    }
    running.end()?;
    Ok(peak.ok_or("no VmHWM")? as f64 / 1024.0)
}
