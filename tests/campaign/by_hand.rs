//! A fault campaign: `cargo run --release --example campaign -- --seed 1 --minutes 10`.
//!
//! Episodes, several at a time, each the life of one host with the real runner, a worker that misbehaves, a fake
//! Taskcluster and a fake metadata service, and faults at random moments, all of it from the seed. What must hold is
//! looked at all the time; where something does not, the episode's folder is kept, and the exit code is 1.
//!
//! The same seed makes the same plan. The moments of real processes are real: what needs one of a few milliseconds shows
//! in some runs only. So run the episode that broke, alone and some times: `--seed N --episode K --times 20`.
#![expect(clippy::print_stdout, reason = "a report on a terminal")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what cannot go on has failed")]

mod bounds;
mod disk;
mod hung;
mod invariants;
mod life;
mod plan;
mod question;
mod record;
mod report;
mod room;
mod runner;
mod spellings;
mod story;
mod watch;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;

use invariants::Invariant;
use life::Life;
use plan::Episode;
use report::Report;
use world::Programs;

/// Random faults against real processes, and what must hold whatever happens.
#[derive(Parser)]
struct Arguments {
    /// What all chance comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// For how long episodes are begun
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// How many episodes run at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Runs this episode only
    #[arg(long)]
    episode: Option<u64>,
    /// How often that is run
    #[arg(long, default_value_t = 1)]
    times: u64,
    /// Runs the episode of this file, as `--plan` prints them
    #[arg(long, conflicts_with = "episode")]
    file: Option<PathBuf>,
    /// Prints the plan, a JSON object for each episode, and runs nothing
    #[arg(long)]
    plan: bool,
    /// Lives only so many seconds of each episode
    #[arg(long)]
    at_most: Option<u64>,
    /// Multiplies the time that a stop may take
    #[arg(long, default_value_t = 1.0)]
    patience: f64,
    /// Another program in the place of start-worker
    #[arg(long)]
    runner: Option<PathBuf>,
    /// Where folders of broken episodes are kept
    #[arg(long, default_value = "target/campaign")]
    keep: PathBuf,
    /// Lists what must hold
    #[arg(long)]
    invariants: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.invariants {
        for invariant in Invariant::ALL {
            println!("{:18} {}", invariant.name(), invariant.doc());
        }
        return ExitCode::SUCCESS;
    }
    if arguments.plan {
        let numbers = arguments.episode.map_or(1..=20, |number| number..=number);
        for number in numbers {
            println!("{}", report::printed(&Episode::of(arguments.seed, number)));
        }
        return ExitCode::SUCCESS;
    }
    disk::enter_namespace();
    let programs = match programs(arguments.runner.as_deref()) {
        Ok(programs) => programs,
        Err(missing) => {
            println!("there is no {}: cargo build --release --bins --examples", missing.display());
            return ExitCode::FAILURE;
        }
    };
    if !disk::Disk::can_fail() {
        println!("no mount namespace (that takes root): disks do not fail");
    }
    if campaign(&arguments, &programs).broken() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Those that cargo has built beside this one.
fn programs(runner: Option<&Path>) -> Result<Programs, PathBuf> {
    let here = std::env::current_exe().unwrap_or_default();
    let examples = here.parent().unwrap_or(Path::new("."));
    let runner = match runner {
        Some(runner) => std::path::absolute(runner).unwrap_or_default(),
        None => examples.parent().unwrap_or(examples).join("start-worker"),
    };
    let worker = examples.join("test-worker");
    let clock = examples.join("libshifted_clock.so");
    let missing = [&runner, &worker, &clock].into_iter().find(|path| !path.exists()).cloned();
    missing.map_or(Ok(Programs { runner, worker, clock }), Err)
}

fn campaign(arguments: &Arguments, programs: &Programs) -> Report {
    let began = Instant::now();
    let end = began + Duration::from_secs_f64(arguments.minutes * 60.0);
    let next = AtomicU64::new(1);
    let report = Mutex::new(Report::new(arguments.seed));
    let fixed = arguments.file.as_deref().map(|path| {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
        serde_json::from_str::<Episode>(&text).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
    });
    let next_episode = || {
        let number = next.fetch_add(1, Ordering::Relaxed);
        match (&fixed, arguments.episode) {
            (Some(_), _) | (_, Some(_)) if number > arguments.times => None,
            (Some(episode), _) => Some((number, episode.clone())),
            (None, Some(one)) => Some((number, Episode::of(arguments.seed, one))),
            (None, None) if Instant::now() >= end => None,
            (None, None) => Some((number, Episode::of(arguments.seed, number))),
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                while let Some((run, episode)) = next_episode() {
                    let mut episode = episode.cut(arguments.at_most.unwrap_or(u64::MAX));
                    let number = std::mem::replace(&mut episode.number, run);
                    let folder = tempfile::Builder::new().prefix("campaign-").tempdir().expect("a folder");
                    let lived = Life::live(&episode, folder.path(), programs, arguments.patience);
                    episode.number = number;
                    let mut report = report.lock().unwrap();
                    if report.add(&episode, &lived) {
                        let kept = keep(folder, &arguments.keep, arguments.seed, run);
                        report.tell(&episode, &lived, &kept);
                    }
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap();
    report.end(began.elapsed());
    report
}

/// Puts an episode's folder where it stays.
fn keep(folder: tempfile::TempDir, place: &Path, seed: u64, run: u64) -> PathBuf {
    let path = folder.keep();
    let kept = place.join(format!("seed-{seed}-{run}"));
    std::fs::create_dir_all(place).ok();
    std::fs::remove_dir_all(&kept).ok();
    let moved = std::process::Command::new("cp").arg("-r").arg(&path).arg(&kept).status();
    if moved.is_ok_and(|status| status.success()) {
        std::fs::remove_dir_all(&path).ok();
        return kept;
    }
    path
}
