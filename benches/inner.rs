//! Benchmarks of the inner parts: splitting lines, reading messages, the path from a pipe to a sink, merging worker
//! configurations.
//!
//! `cargo bench --bench inner` takes half a minute. Its figures serve to compare one change with another; `end_to_end`
//! measures the whole program.
#![expect(clippy::unwrap_used, reason = "the benchmark's own data is what it should be")]

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput};
use serde_json::json;
use start_worker::output::{Format, Output, WorkerEvent, WorkerPipes};
use start_worker::protocol::capabilities::Capability;
use start_worker::protocol::json::log_members;
use start_worker::protocol::message;
use start_worker::protocol::transport::{Piece, Splitter};
use start_worker::run_spec::Object;
use start_worker::run_spec::worker_config::{Merged, Source};
use tokio::sync::mpsc;

/// As much as the runner reads at once, in bytes.
const READ: usize = 64 * 1024;

const LOG: &str = r#"~{"type":"log","body":{"level":"info","textPayload":"a line of a task's log, as long as most of them are"}}"#;
const ESCAPED: &str = r#"~{"type":"log","body":{"level":"info","textPayload":"a \"quoted\" word,\na second line, and a path\\with\\them"}}"#;
const HELLO: &str = r#"~{"type":"hello","capabilities":["error-report","graceful-termination","log","new-credentials","shutdown"]}"#;
const OUTPUT: &str = r"~ this line only looks like a message, and there are workers that print such lines";

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    split_lines(&mut criterion);
    parse_messages(&mut criterion);
    forward(&mut criterion);
    merge_configurations(&mut criterion);
    criterion.final_summary();
}

/// Blocks of output, cut at newlines.
fn split_lines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    let short = format!("{}\n", "x".repeat(9)).repeat(1 << 17);
    let usual = format!("{}\n", "x".repeat(99)).repeat(1 << 14);
    let giant = "x".repeat(16 << 20);
    let foreign = format!("{}\n", "ä".repeat(49)).repeat(1 << 14);
    for (name, text) in [
        ("lines of 10 bytes", short),
        ("lines of 100 bytes", usual),
        ("lines of 100 bytes, not ASCII", foreign),
        ("one line of 16 MiB", giant),
    ] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| split(text.as_bytes())));
    }
    group.finish();
}

/// Returns the number of bytes that come out, so that nothing is optimised away.
fn split(text: &[u8]) -> usize {
    let mut splitter = Splitter::with_messages();
    let mut bytes = 0;
    let mut forward = |piece: Piece<'_>| {
        bytes += match black_box(piece) {
            Piece::Line(line) => line.len(),
            Piece::Bytes(line) => line.len(),
            Piece::Part { bytes, .. } => bytes.len(),
            Piece::Refused { .. } => 0,
        }
    };
    for block in text.chunks(READ) {
        splitter.feed(block, &mut forward);
    }
    splitter.finish(&mut forward);
    bytes
}

/// Parses one line of each kind and handles it as the runner does.
fn parse_messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    for (name, line) in [("log", LOG), ("log with escapes", ESCAPED)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let parsed = message::parse(black_box(line)).unwrap();
                black_box(parsed.log_body().unwrap().get().len())
            });
        });
    }
    // The way that the output thread takes, where it needs the members and no other message is likely.
    group.bench_function("log in one pass", |bencher| {
        bencher.iter(|| log_members(black_box(LOG)).is_some());
    });
    group.bench_function("hello", |bencher| {
        bencher.iter(|| message::parse(black_box(HELLO)).unwrap().hello().unwrap());
    });
    group.bench_function("output that begins like a message", |bencher| {
        bencher.iter(|| message::parse(black_box(OUTPUT)).is_none());
    });
    group.finish();
}

/// From a worker's pipe to a sink that takes everything, where rendering is most of the work.
fn forward(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forward");
    group.sample_size(10);
    let line = "x".repeat(99);
    for (name, format, line) in [
        ("lines of 100 bytes as text", Format::Text, line.as_str()),
        ("lines of 100 bytes as JSON", Format::Json, line.as_str()),
        ("log as text", Format::Text, LOG),
        ("log with escapes as text", Format::Text, ESCAPED),
        ("log as JSON", Format::Json, LOG),
    ] {
        const LINES: usize = 100_000;
        let lines = format!("{line}\n").repeat(LINES);
        group.throughput(Throughput::Elements(LINES as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| (0..rounds).map(|_| forwarded(format, &lines)).sum());
        });
    }
    group.finish();
}

/// Time from the first byte of a worker's output to its end.
fn forwarded(format: Format, lines: &str) -> Duration {
    let sink = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    let output = Output::start(sink.into(), format).unwrap();
    let (stdout, mut writer) = std::io::pipe().unwrap();
    let (stderr, _) = std::io::pipe().unwrap();
    let (events, mut received) = mpsc::channel(64);
    let offered = Capability::ALL.into_iter().collect();
    let (stdout, stderr) = (stdout.into(), stderr.into());
    let pipes = WorkerPipes { stdout, stderr, offered, counts_tasks: true, keep_last: 20 };
    let attachment = output.attach(pipes, events).unwrap();
    writer.write_all(format!("{HELLO}\n").as_bytes()).unwrap();
    received.blocking_recv().unwrap();
    let start = Instant::now();
    writer.write_all(lines.as_bytes()).unwrap();
    drop(writer);
    attachment.finish();
    while !matches!(received.blocking_recv(), Some(WorkerEvent::End { .. }) | None) {}
    start.elapsed()
}

/// The runner file's, the provider's and a secret's configuration, each with some keys of its own and some that meet.
fn merge_configurations(criterion: &mut Criterion) {
    let layers = [
        (Source::RunnerFile, layer("runner", 30)),
        (Source::Provider, layer("provider", 30)),
        (Source::Secret("worker-pool:example/linux".to_owned()), layer("secret", 30)),
    ];
    let merge = |layers: [(Source, Object); 3]| {
        let mut merged = Merged::new();
        for (source, layer) in layers {
            merged.merge(layer, &source);
        }
        merged
    };
    let merged = merge(layers.clone());
    let mut group = criterion.benchmark_group("merge");
    group.bench_function("three layers of 30 keys", |bencher| {
        bencher.iter_batched(|| layers.clone(), merge, BatchSize::SmallInput);
    });
    group.bench_function("mask them", |bencher| bencher.iter(|| merged.masked(&["not-a-real-token"])));
    group.finish();
}

/// Half of the keys are the layer's own; a third of them hold objects, a third arrays.
fn layer(name: &str, keys: usize) -> Object {
    let key =
        |index: usize| if index.is_multiple_of(2) { format!("{name}{index}") } else { format!("key{index}") };
    let value = |index: usize| match index % 3 {
        0 => json!({"enabled": true, name: index, "nested": {"path": "/var/cache", "sizes": [1, 2, 3]}}),
        1 => json!(["a", name, index]),
        _ => json!(format!("a value of {name}")),
    };
    (0..keys).map(|index| (key(index), value(index))).collect()
}
