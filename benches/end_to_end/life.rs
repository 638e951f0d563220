//! A runner's life: start, full cycle, restart after a crash, stop.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::measure::{Cost, Running, in_turns, median, now, pause, run};
use crate::scene::{CRASHES, Scene, worker_alone};
use crate::table::{Row, Target};
use crate::{Result, worker};

/// Rounds of measurements that take milliseconds.
const ROUNDS: usize = 100;

const MILLI: f64 = 1e3;

/// From exec to exit, with a worker that is never started.
pub(crate) fn start_up() -> Result<Vec<Row>> {
    let scene = Scene::with_dummy()?;
    let pairs = in_turns(ROUNDS, || run(&mut scene.runner()), || run(&mut Command::new("/bin/true")))?;
    let (today, reference, more) = compared(&pairs);
    Ok(vec![Row {
        what: "standalone + dummy, exec to exit",
        go: "4.8 ms",
        today: format!("{today:.1} ms (+ {more:.1})"),
        reference: format!("`/bin/true` {reference:.1} ms"),
        targets: vec![Target::at_most(more, 1.0, "≤ `/bin/true` + 1.0 ms")],
    }])
}

/// Start, configuration written, worker says hello and exits with 0, runner exits.
pub(crate) fn full_cycle() -> Result<Vec<Row>> {
    let scene = Scene::with_worker(&["hello"])?;
    let pairs = in_turns(ROUNDS, || run(&mut scene.runner()), || run(&mut worker_alone(&["hello"])?))?;
    let (today, reference, more) = compared(&pairs);
    Ok(vec![Row {
        what: "full cycle: start, configuration written, worker says hello, exits 0, runner exits (no TLS)",
        go: "8.9 ms",
        today: format!("{today:.1} ms (+ {more:.1})"),
        reference: format!("the same worker alone {reference:.1} ms"),
        targets: vec![Target::at_most(more, 3.0, "≤ worker alone + 3 ms")],
    }])
}

/// Milliseconds: ours, the reference's, and how much more ours takes; medians.
fn compared(pairs: &[(Cost, Cost)]) -> (f64, f64, f64) {
    (
        median(pairs.iter().map(|(ours, _)| ours.wall * MILLI)),
        median(pairs.iter().map(|(_, reference)| reference.wall * MILLI)),
        median(pairs.iter().map(|(ours, reference)| (ours.wall - reference.wall) * MILLI)),
    )
}

/// From the last thing that a worker does to the first that the next one does.
pub(crate) fn crash_to_exec() -> Result<Vec<Row>> {
    let scene = Scene::with_worker(&["crash", "RECORD"])?;
    Running::start(&mut scene.runner())?.end_with(1)?;
    let moments = scene.take_moments(&[worker::ENDS, worker::STARTED])?;
    let [ends, starts] = &moments[..] else { return Err("no moments".into()) };
    if starts.len() != CRASHES as usize + 1 {
        return Err(format!("{} starts, expected {}", starts.len(), CRASHES + 1).into());
    }
    let gaps = ends.iter().zip(starts.iter().skip(1)).map(|(end, start)| (start - end) / 1e6);
    let gap = median(gaps);
    Ok(vec![Row {
        what: "crash of the worker to its next exec, back-off 0",
        go: "(does not restart)",
        today: format!("{gap:.1} ms"),
        reference: String::new(),
        targets: vec![Target::at_most(gap, 3.0, "≤ 3 ms")],
    }])
}

/// From the signal to the message that the worker reads.
pub(crate) fn signal_to_message() -> Result<Vec<Row>> {
    let scene = Scene::with_worker(&["obey", "RECORD"])?;
    let times: Result<Vec<f64>> = (0..=ROUNDS / 2).map(|_| stop_once(&scene)).skip(1).collect();
    let time = median(times?);
    Ok(vec![Row {
        what: "signal to the runner → graceful-termination in the worker's pipe",
        go: "(never)",
        today: format!("{time:.2} ms"),
        reference: String::new(),
        targets: vec![Target::at_most(time, 1.0, "≤ 1 ms median")],
    }])
}

/// Milliseconds from SIGTERM to the worker that has read the message.
fn stop_once(scene: &Scene) -> Result<f64> {
    let mut running = Running::start(scene.runner().stderr(Stdio::piped()))?;
    let log = running.child.stderr.take().ok_or("no log")?;
    // Kept open to the end, because a log without a reader is a different case.
    let mut lines = BufReader::new(log).lines();
    if !lines.by_ref().map_while(std::result::Result::ok).any(|line| line.contains("worker says hello")) {
        return Err("the worker has not said hello".into());
    }
    // To rest after the start.
    pause(Duration::from_millis(5));
    let sent = now();
    kill(running.pid(), Signal::SIGTERM)?;
    running.end()?;
    let moments = scene.take_moments(&[worker::ASKED])?;
    let asked = moments.concat().first().copied().ok_or("the worker was not asked to end")?;
    Ok((asked / 1e9 - sent.as_secs_f64()) * MILLI)
}
