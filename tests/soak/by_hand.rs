//! A busy runner for half an hour: `cargo run --release --example soak -- --minutes 30`.
//!
//! Its worker writes 10,000 lines a second and crashes every minute, credentials are renewed every 30 s, and a new
//! deployment is looked for every second. Once a second memory, files, threads and CPU time are written to
//! `target/soak/soak.csv`; at the end there are a table and a plot. Exit code 1 where they are not flat.
#![expect(clippy::print_stdout, reason = "a report on a terminal")]
#![expect(clippy::unwrap_used, reason = "what cannot go on has failed")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod plot;
mod sample;

use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;

use sample::{Sample, flat, table};
use test_support::fake_taskcluster::FakeTaskcluster;

const POOL: &str = "soak/linux";
const STATIC_SECRET: &str = "not-a-secret-but-secrets-have-44-characters-";
/// Renewed 30 s before its end, or a tenth earlier.
const CREDENTIALS_LIFE: Duration = Duration::from_secs(60);

/// A busy runner, watched.
#[derive(Parser)]
struct Arguments {
    /// For how long
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Where `soak.csv` and `soak.svg` go
    #[arg(long, default_value = "target/soak")]
    to: PathBuf,
    /// How many lines of 100 bytes the worker writes in a second
    #[arg(long, default_value_t = 10_000)]
    lines: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let here = std::env::current_exe().unwrap();
    let examples = here.parent().unwrap();
    let (runner, worker) = (examples.parent().unwrap().join("start-worker"), examples.join("test-worker"));
    if let Some(missing) = [&runner, &worker].into_iter().find(|path| !path.exists()) {
        println!("there is no {}: cargo build --release --bins --examples", missing.display());
        return ExitCode::FAILURE;
    }
    let folder = tempfile::tempdir().unwrap();
    let fake = taskcluster();
    let config = configure(&fake, folder.path(), &worker, arguments.lines);
    let lines = Arc::<AtomicU64>::default();
    let mut running = start(&runner, &config, &lines);
    let calls = || sample::Calls {
        lines: lines.load(Ordering::Relaxed),
        renewals: fake.count("reregisterWorker"),
        polls: fake.count("workerPool"),
        crashes: starts(&config).saturating_sub(1),
    };
    let samples = watch(&arguments, &mut running, calls);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(running.id().cast_signed()), nix::sys::signal::SIGTERM)
        .unwrap();
    let status = running.wait().unwrap();
    std::fs::write(arguments.to.join("soak.svg"), plot::plot(&samples)).unwrap();
    println!("{}", table(&samples));
    println!("the runner's end: {status}");
    let uneven = flat(&samples);
    for what in &uneven {
        println!("not flat: {what}");
    }
    if uneven.is_empty() && status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn taskcluster() -> FakeTaskcluster {
    let fake = FakeTaskcluster::start();
    let worker_config = json!({"command": {"config": {"deploymentId": "d1"}}});
    fake.set_pool(POOL, json!({"providerId": "static", "config": {"workerConfig": worker_config}}));
    fake.grant("worker-pool:soak/linux", &["worker-manager:get-worker-pool:soak/linux"]);
    fake.set_credentials_life(CREDENTIALS_LIFE);
    fake.add_static_worker(POOL, "here", "worker", STATIC_SECRET);
    fake
}

fn configure(fake: &FakeTaskcluster, folder: &Path, worker: &Path, lines: u32) -> PathBuf {
    let pour = format!("pour {lines} 100 60s");
    let config = json!({
        "provider": {
            "providerType": "static", "rootURL": fake.url(), "providerID": "static", "workerPoolID": POOL,
            "workerGroup": "here", "workerID": "worker", "staticSecret": STATIC_SECRET,
        },
        "worker": {
            "implementation": "command", "path": worker, "configPath": folder.join("worker.json"),
            "args": ["on now: exit 0", "on finish: exit 0", "hello all", pour, "exit 1"],
        },
        "supervision": {"restartWindow": "20s", "backoff": {"initial": "100ms", "max": "1s"}},
        "cacheOverRestarts": folder.join("run.json"),
        "deployment": {"interval": "1s"},
        "host": {
                "shutdownCommand": ["true"], "rebootCommand": ["true"],
                "forceShutdownCommand": ["true"], "forceRebootCommand": ["true"],
            },
        "getSecrets": false,
        "status": {"socket": folder.join("status.sock")},
    });
    let path = folder.join("runner.yml");
    // JSON is YAML.
    std::fs::write(&path, config.to_string()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// Starts the runner, and reads its log.
fn start(runner: &Path, config: &Path, lines: &Arc<AtomicU64>) -> Child {
    let mut command = Command::new(runner);
    command.arg(config).env("RUNTIME_DIRECTORY", config.parent().unwrap()).env_remove("STATE_DIRECTORY");
    command.env("TEST_WORKER_RECORD", record(config));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut log = child.stderr.take().unwrap();
    let lines = lines.clone();
    std::thread::spawn(move || {
        let mut block = vec![0; 1 << 18];
        while let Ok(count @ 1..) = log.read(&mut block) {
            let newlines = memchr::memchr_iter(b'\n', &block[..count]).count();
            lines.fetch_add(newlines as u64, Ordering::Relaxed);
        }
    });
    child
}

/// The file that the workers record in.
fn record(config: &Path) -> PathBuf {
    config.with_file_name("record")
}

/// Number of workers that were started.
fn starts(config: &Path) -> usize {
    let text = std::fs::read_to_string(record(config)).unwrap_or_default();
    text.matches("\"event\":\"start\"").count()
}

/// Takes a sample a second, and writes them down as they come.
fn watch(arguments: &Arguments, running: &mut Child, calls: impl Fn() -> sample::Calls) -> Vec<Sample> {
    std::fs::create_dir_all(&arguments.to).unwrap();
    let (began, pid) = (Instant::now(), running.id().cast_signed());
    let end = Duration::from_secs_f64(arguments.minutes * 60.0);
    let (mut samples, mut text) = (Vec::new(), format!("{}\n", sample::HEAD));
    while began.elapsed() < end {
        let next = Duration::from_secs(samples.len() as u64 + 1);
        while let Some(left) = next.checked_sub(began.elapsed()) {
            std::thread::park_timeout(left);
        }
        assert!(running.try_wait().unwrap().is_none(), "the runner has ended");
        let Some(sample) = Sample::take(pid, began.elapsed(), calls()) else { continue };
        writeln!(text, "{sample}").unwrap();
        std::fs::write(arguments.to.join("soak.csv"), &text).unwrap();
        samples.push(sample);
    }
    samples
}
