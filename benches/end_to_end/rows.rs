//! What is measured: each function makes one or more rows of the table. Each with its target.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::measure::{median, millis, peak, processor_time, pss, ratio, sleeps, threads};
use crate::runner::{Binaries, Running, Scene, pause, wait, worker};

/// One row of the table.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) today: String,
    pub(crate) reference: String,
    pub(crate) target: String,
    /// Unknown where something could not be read.
    pub(crate) met: Option<bool>,
}

impl Row {
    fn new(what: &str, today: String, reference: String, target: &str, met: Option<bool>) -> Self {
        Self { what: what.to_owned(), today, reference, target: target.to_owned(), met }
    }
}

type Measure = fn(&Binaries) -> Vec<Row>;

/// All measurements, in the order of the table.
pub(crate) const ALL: &[Measure] = &[
    start_up,
    full_cycle,
    idle,
    binary_size,
    output_to_null,
    output_to_pipe,
    structured,
    long_line,
    crash_to_exec,
    signal_to_message,
];

/// How long a command takes from exec to exit.
fn time(command: &mut Command) -> Duration {
    let start = Instant::now();
    command.status().expect("cannot run a command");
    start.elapsed()
}

/// Runs both in turn, so often; the medians.
fn interleaved(times: usize, mut one: Command, mut other: Command) -> (Duration, Duration) {
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for _ in 0..times {
        ones.push(time(&mut one));
        others.push(time(&mut other));
    }
    (median(ones), median(others))
}

fn start_up(binaries: &Binaries) -> Vec<Row> {
    let scene = Scene::new(binaries, "dummy", &[]);
    let (today, reference) = interleaved(300, scene.command(binaries), Command::new("/bin/true"));
    let more = today.saturating_sub(reference);
    vec![Row::new(
        "standalone + dummy, exec to exit",
        format!("{} (+ {})", millis(today), millis(more)),
        format!("`/bin/true` {}", millis(reference)),
        "≤ `/bin/true` + 1.0 ms",
        Some(more <= Duration::from_millis(1)),
    )]
}

fn full_cycle(binaries: &Binaries) -> Vec<Row> {
    let script = ["hello all", "exit 0"];
    let scene = Scene::new(binaries, "generic-worker", &script);
    let (today, reference) = interleaved(200, scene.command(binaries), worker(binaries, &script));
    let more = today.saturating_sub(reference);
    vec![Row::new(
        "full cycle: configuration written, worker says hello, exits 0, runner exits",
        format!("{} (+ {})", millis(today), millis(more)),
        format!("the worker alone {}", millis(reference)),
        "≤ worker alone + 3 ms",
        Some(more <= Duration::from_millis(3)),
    )]
}

fn idle(binaries: &Binaries) -> Vec<Row> {
    let scene = Scene::new(binaries, "generic-worker", &["hello all", "note ready", "wait"]);
    let running = scene.start(binaries, Stdio::null());
    running.note("ready");
    // The thread that wrote the worker's configuration waits 10 s for other work before it ends.
    pause(Duration::from_secs(15));
    let memory = pss(running.pid());
    let threads = threads(running.pid());
    let before = sleeps(running.pid());
    pause(Duration::from_secs(10));
    let wake_ups = sleeps(running.pid()).saturating_sub(before);
    let memory_text = memory.map_or("needs root".to_owned(), |(all, anonymous)| {
        format!("{:.1} / {:.1} MiB", ratio(all, 1024.0), ratio(anonymous, 1024.0))
    });
    vec![
        Row::new(
            "idle PSS / of that anonymous",
            memory_text,
            "–".to_owned(),
            "≤ 3.5 / 0.5 MiB",
            memory.map(|(all, anonymous)| all <= 3584 && anonymous <= 512),
        ),
        Row::new(
            "threads, at rest",
            threads.map_or("?".to_owned(), |count| count.to_string()),
            "–".to_owned(),
            "2",
            threads.map(|count| count <= 2),
        ),
        Row::new("idle wake-ups in 10 s", wake_ups.to_string(), "–".to_owned(), "0", Some(wake_ups == 0)),
    ]
}

fn binary_size(binaries: &Binaries) -> Vec<Row> {
    let size = ratio(std::fs::metadata(&binaries.runner).expect("the runner's file").len(), 1e6);
    vec![Row::new("binary, stripped", format!("{size:.1} MB"), "–".to_owned(), "≤ 5.5 MB", Some(size <= 5.5))]
}

/// What the worker does between its notes, and how much that is.
struct Flood {
    statements: &'static [&'static str],
    bytes: f64,
}

const LINES: Flood = Flood { statements: &["fast-lines 1000000 100"], bytes: 1e8 };

/// How a flood went.
struct Flow {
    seconds: f64,
    /// The runner's processor time.
    processor: Duration,
    /// The runner's peak memory, in KiB.
    peak: Option<u64>,
}

impl Flood {
    fn script(&self) -> Vec<&'static str> {
        let mut script = vec!["hello all", "note begin"];
        script.extend(self.statements);
        script.extend(["note end", "wait"]);
        script
    }

    /// Through the runner; its log goes to `log`.
    fn through_runner(&self, binaries: &Binaries, log: Stdio) -> Flow {
        let scene = Scene::new(binaries, "command", &self.script());
        let running = scene.start(binaries, log);
        let seconds = duration(&running);
        // What is still in the pipe.
        pause(Duration::from_millis(20));
        Flow { seconds, processor: processor_time(running.pid()), peak: peak(running.pid()) }
    }

    /// Through `cat`, whose output goes to `sink`.
    fn through_cat(&self, binaries: &Binaries, sink: Stdio) -> f64 {
        let dir = tempfile::tempdir().expect("cannot make a folder");
        let record = dir.path().join("record");
        let mut command = worker(binaries, &self.script());
        command.env("TEST_WORKER_RECORD", &record).stdout(Stdio::piped());
        let mut child = command.spawn().expect("cannot start the worker");
        let output = OwnedFd::from(child.stdout.take().expect("a pipe"));
        let cat = Command::new("cat").stdin(output).stdout(sink).spawn().expect("cannot start cat");
        let running = Running::new(child, record.clone());
        let _cat = Running::new(cat, record);
        duration(&running)
    }

    fn megabytes_per_second(&self, seconds: f64) -> f64 {
        self.bytes / seconds / 1e6
    }
}

/// From the note `begin` to the note `end`, in seconds.
fn duration(running: &Running) -> f64 {
    let end = running.note("end");
    ratio(end - running.note("begin"), 1e6)
}

/// A pipe into a `cat` that throws away what it reads. It ends with the pipe.
fn reader() -> Stdio {
    let mut cat =
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cannot start cat");
    let pipe = OwnedFd::from(cat.stdin.take().expect("a pipe"));
    std::thread::spawn(move || cat.wait());
    Stdio::from(pipe)
}

/// Floods of lines through the runner and through `cat`, in turn.
fn lines(binaries: &Binaries, sink: fn() -> Stdio) -> (f64, f64, Duration) {
    let (mut today, mut reference, mut processor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..7 {
        let flow = LINES.through_runner(binaries, sink());
        today.push(LINES.megabytes_per_second(flow.seconds));
        processor.push(flow.processor);
        reference.push(LINES.megabytes_per_second(LINES.through_cat(binaries, sink())));
    }
    (median(today), median(reference), median(processor))
}

fn output_to_null(binaries: &Binaries) -> Vec<Row> {
    let (today, reference, processor) = lines(binaries, Stdio::null);
    let enough = today >= 1000.0 && today >= 0.8 * reference && processor <= Duration::from_millis(100);
    vec![Row::new(
        "worker output: 1 million lines of 100 bytes to /dev/null",
        format!("{today:.0} MB/s ({:.2} × `cat`), {:.2} s CPU", today / reference, processor.as_secs_f64()),
        format!("`cat` {reference:.0} MB/s"),
        "≥ 1,000 MB/s and ≥ 0.8 × `cat`; ≤ 0.1 s CPU",
        Some(enough),
    )]
}

fn output_to_pipe(binaries: &Binaries) -> Vec<Row> {
    let (today, reference, _) = lines(binaries, reader);
    vec![Row::new(
        "the same into a pipe that is read",
        format!("{today:.0} MB/s ({:.2} × `cat`)", today / reference),
        format!("`cat` {reference:.0} MB/s"),
        "≥ 400 MB/s and ≥ 0.6 × `cat`",
        Some(today >= 400.0 && today >= 0.6 * reference),
    )]
}

fn structured(binaries: &Binaries) -> Vec<Row> {
    const FLOOD: Flood = Flood { statements: &["await welcome", "logs 2000000"], bytes: 2e6 * 122.0 };
    let rate = |_| 2e6 / FLOOD.through_runner(binaries, Stdio::null()).seconds;
    let today = median((0..5).map(rate).collect());
    vec![Row::new(
        "structured log messages (122 bytes each) to /dev/null",
        format!("{today:.0}/s"),
        "–".to_owned(),
        "≥ 2,000,000/s",
        Some(today >= 2e6),
    )]
}

fn long_line(binaries: &Binaries) -> Vec<Row> {
    const FLOOD: Flood = Flood { statements: &["blob 67108864", "raw \\n"], bytes: 67_108_865.0 };
    let flows: Vec<Flow> = (0..5).map(|_| FLOOD.through_runner(binaries, Stdio::null())).collect();
    let seconds = median(flows.iter().map(|flow| flow.seconds).collect());
    let peak = flows.iter().filter_map(|flow| flow.peak).max();
    let mib = peak.map_or("?".to_owned(), |kib| format!("{:.1}", ratio(kib, 1024.0)));
    vec![Row::new(
        "one line of 64 MiB; peak memory",
        format!("{seconds:.3} s, {mib} MiB"),
        "–".to_owned(),
        "≤ 0.2 s, ≤ 8 MiB",
        peak.map(|kib| seconds <= 0.2 && kib <= 8192),
    )]
}

fn micros(event: &Value, clock: &str) -> u64 {
    event[clock].as_u64().unwrap_or_default()
}

fn crash_to_exec(binaries: &Binaries) -> Vec<Row> {
    let scene = Scene::new(binaries, "generic-worker", &["exit 69"]);
    let mut running = scene.start(binaries, Stdio::null());
    running.ended();
    let events = running.events();
    let mut pauses = Vec::new();
    let turns = events.iter().zip(events.iter().skip(1));
    for (exit, start) in
        turns.filter(|(first, second)| first["event"] == "exit" && second["event"] == "start")
    {
        pauses.push(Duration::from_micros(micros(start, "mono") - micros(exit, "mono")));
    }
    let today = median(pauses);
    let (alone, _) = interleaved(50, worker(binaries, &["exit 69"]), Command::new("/bin/true"));
    vec![Row::new(
        "crash of the worker to its next `main`, back-off 0",
        millis(today),
        format!("the worker alone, exec to exit {}", millis(alone)),
        "≤ 3 ms",
        Some(today <= Duration::from_millis(3)),
    )]
}

fn signal_to_message(binaries: &Binaries) -> Vec<Row> {
    let script = ["on now: exit 0", "await welcome", "hello all", "note ready", "wait"];
    let mut delays = Vec::new();
    for _ in 0..30 {
        let scene = Scene::new(binaries, "generic-worker", &script);
        let mut running = scene.start(binaries, Stdio::null());
        running.note("ready");
        // The hello must have been heard, too.
        pause(Duration::from_millis(20));
        let sent = jiff::Timestamp::now().as_microsecond();
        running.signal(Signal::SIGTERM);
        let told = wait("graceful-termination", || {
            let events = running.events();
            let told = events.iter().find(|event| event["type"] == "graceful-termination")?;
            told["wall"].as_i64()
        });
        running.ended();
        delays.push(Duration::from_micros(u64::try_from(told - sent).unwrap_or_default()));
    }
    let today = median(delays);
    vec![Row::new(
        "signal to the runner → graceful-termination read by the worker",
        format!("{} median", millis(today)),
        "–".to_owned(),
        "≤ 1 ms median",
        Some(today <= Duration::from_millis(1)),
    )]
}
