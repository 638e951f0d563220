//! Measures the release binary as whole processes and prints the table of `docs/performance.md`.
//!
//! `cargo bench --bench end_to_end` measures everything and writes `target/bench/summary.md`. With `-- WORD…` it runs
//! only the groups whose names contain one of the words. `START_WORKER` selects another binary. A measurement and its
//! reference run alternately, so that a disturbance affects both. No test depends on the results.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use table::Row;

mod life;
mod measure;
mod output;
mod rest;
mod scene;
mod table;
mod taskcluster;
mod worker;

/// Whatever goes wrong ends the benchmark.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Rows that are measured together, and their name on the command line.
struct Group {
    name: &'static str,
    measure: fn() -> Result<Vec<Row>>,
}

/// In the order of the table.
const GROUPS: [Group; 11] = [
    Group { name: "start-up", measure: life::start_up },
    Group { name: "full-cycle", measure: life::full_cycle },
    Group { name: "rest", measure: rest::at_rest },
    Group { name: "calls", measure: rest::after_calls },
    Group { name: "binary", measure: rest::binary_size },
    Group { name: "output-null", measure: output::into_null },
    Group { name: "output-pipe", measure: output::into_pipe },
    Group { name: "structured", measure: output::structured },
    Group { name: "long-line", measure: output::long_line },
    Group { name: "crash", measure: life::crash_to_exec },
    Group { name: "signal", measure: life::signal_to_message },
];

/// Longer than all of it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((worker::MARK, rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return worker::live(rest);
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("measures only under `cargo bench`");
        return ExitCode::SUCCESS;
    }
    let words: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    match measure_all(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all(words: &[&str]) -> Result<()> {
    end_after(LIMIT);
    let began = Instant::now();
    let load_before = load_average();
    let mut rows = Vec::new();
    for group in &GROUPS {
        if words.is_empty() || words.iter().any(|word| group.name.contains(word)) {
            eprintln!("measuring {}", group.name);
            let measured = (group.measure)().map_err(|error| format!("{}: {error}", group.name))?;
            rows.extend(measured);
        }
    }
    let mut summary = table::render(&rows);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    writeln!(
        summary,
        "\nMeasured on {cores} cores, Linux {}, in {:.0} s; load average {load_before} before, {} after.",
        kernel.trim(),
        began.elapsed().as_secs_f64(),
        load_average()
    )?;
    println!("{summary}");
    if words.is_empty() {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no target folder")?;
        let folder = target.join("bench");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("summary.md"), summary)?;
    }
    Ok(())
}

/// The load average of the last minute.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Ends a runner that hangs, so that the benchmark ends, too. Its worker exits by itself, and the runner after it.
fn end_after(limit: Duration) {
    std::thread::spawn(move || {
        measure::pause(limit);
        eprintln!("error: not done after {limit:?}: something hangs");
        #[expect(clippy::exit, clippy::disallowed_methods, reason = "what hangs cannot be closed")]
        std::process::exit(1);
    });
}
