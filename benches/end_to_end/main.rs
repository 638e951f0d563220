//! Measures the runner as a whole, beside references that run at the same time, and writes a table with
//! today's figures to `target/bench/summary.md`.
//!
//! `cargo bench --bench end_to_end`. Other work on the machine moves all figures; the references move with them, so
//! compare with those. Some of what is read in /proc needs root.
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

mod measure;
mod rows;
mod runner;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use rows::Row;
use runner::Binaries;

fn main() {
    // `cargo test --all-targets` starts benchmarks, too, without this argument: nothing is measured in a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let binaries = Binaries::find();
    build_worker(&binaries);
    let start = Instant::now();
    let mut rows = Vec::new();
    for measure in rows::ALL {
        rows.extend(measure(&binaries));
    }
    let table = table(&rows, &binaries);
    println!("{table}\nmeasured in {} s", start.elapsed().as_secs());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&folder).expect("cannot make target/bench");
    std::fs::write(folder.join("summary.md"), table).expect("cannot write target/bench/summary.md");
}

/// `cargo bench` builds the runner and this program, but not the worker.
fn build_worker(binaries: &Binaries) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--example", "test-worker", "--profile"]).arg(binaries.profile());
    let status = command.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cannot run cargo");
    assert!(status.success(), "the test worker cannot be built");
}

fn table(rows: &[Row], binaries: &Binaries) -> String {
    let mut text = format!("Profile `{}`, {} cores.\n\n", binaries.profile(), cores());
    text += "| what | today | reference in the same run | target | met |\n| --- | --- | --- | --- | --- |\n";
    for row in rows {
        let met = match row.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "?",
        };
        let (what, today, reference, target) = (&row.what, &row.today, &row.reference, &row.target);
        writeln!(text, "| {what} | {today} | {reference} | {target} | {met} |")
            .expect("a String takes everything");
    }
    text
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}
