//! One flood: a runner, a worker that floods it, and measurements during the flood.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Time limit for operations that take milliseconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Limit for the runner's peak memory, in KiB, as promised in docs/performance.md.
const PEAK: u64 = 32 * 1024;

/// Limit for the growth of memory after a flood, in KiB.
const GROWTH: u64 = 2 * 1024;

/// So many lines the runner may write about a flood.
const MOST_LINES: usize = 150;

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
    /// As text, with every message that is ignored.
    Debug,
}

/// A runner under a flood.
struct Flooded {
    dir: TempDir,
    runner: Child,
    log: Arc<Mutex<Log>>,
}

/// The runner's own lines, and how much there was besides.
#[derive(Debug, Default)]
struct Log {
    own: Vec<String>,
    workers: usize,
}

/// Floods a runner, and asserts that it does not mind.
pub(crate) fn flood(kind: &str, format: Format) {
    let time = std::env::var("FLOOD_DURATION").map_or(Duration::from_millis(500), |text| {
        humantime::parse_duration(&text).expect("FLOOD_DURATION is a duration")
    });
    let runner = Flooded::start(kind, format, time);
    runner.wait_for_status();
    // Allocations that every runner makes once: the answer to a status request, and a second message.
    runner.status();
    let before = runner.memory("RssAnon");
    runner.touch("go");
    let mut slowest = Duration::ZERO;
    while !runner.dir.path().join("calm").exists() {
        slowest = slowest.max(runner.status());
        runner.assert_lives();
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let after = runner.wait_for_little_memory(before + GROWTH);
    let peak = runner.memory("VmHWM");
    runner.touch("again");
    runner.wait_for_more_output();
    let stopped = Instant::now();
    kill(runner.pid(), Signal::SIGTERM).unwrap();
    let (code, log) = runner.ended();
    let took = stopped.elapsed();
    println!(
        "{kind:20} memory before {before:6} KiB, after {after:6} KiB, peak {peak:6} KiB; slowest status {:4} ms; stop {:5} ms; own lines {}",
        slowest.as_millis(),
        took.as_millis(),
        log.own.len()
    );
    assert_eq!(code, Some(0), "{log:#?}");
    assert!(after <= before + GROWTH, "{kind}: {before} KiB before, {after} KiB after");
    assert!(peak <= PEAK, "{kind}: {peak} KiB");
    for line in [
        "worker started",
        "worker says hello",
        "received a signal to stop",
        "worker exited",
        "start-worker ends",
    ] {
        assert_eq!(log.own.iter().filter(|own| own.contains(line)).count(), 1, "{kind}: {line}: {log:#?}");
    }
    if format != Format::Debug {
        assert!(log.own.len() <= MOST_LINES, "{kind}: {log:#?}");
        assert!(!log.own.iter().any(|own| own.contains("are missing here")), "{kind}: {log:#?}");
    }
}

impl Flooded {
    fn start(kind: &str, format: Format, time: Duration) -> Self {
        let dir = tempfile::Builder::new().prefix("start-worker-flood-").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let flood = format!("flood {kind} {}", humantime::format_duration(time));
        let script = [
            "on now: exit 0".to_owned(),
            "hello all".to_owned(),
            format!("wait-file {}", path("go")),
            flood,
            format!("run /usr/bin/touch {}", path("calm")),
            format!("wait-file {}", path("again")),
            format!("flood {kind} 1h"),
        ];
        let config = json!({
            "provider": {
                "providerType": "standalone", "rootURL": "https://tc.example.com", "clientID": "client",
                "accessToken": "made-up-access-token", "workerPoolID": "pp/ww", "workerGroup": "wg", "workerID": "w",
            },
            "worker": {
                "implementation": "command", "path": test_worker(), "configPath": path("worker.json"), "args": script,
            },
            "supervision": {"stopTimeout": "30s", "killTimeout": "5s"},
            "host": {
                "shutdownCommand": ["/bin/true"], "rebootCommand": ["/bin/true"],
                "forceShutdownCommand": ["/bin/true"], "forceRebootCommand": ["/bin/true"],
            },
            "status": {"socket": path("status.sock")},
            "autologin": {"root": path("root")},
            "logging": {"implementation": if format == Format::Json { "json" } else { "stdio" }},
            "getSecrets": false,
        });
        let file = dir.path().join("runner.yml");
        fs::write(&file, config.to_string()).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let mut command = Command::new(program());
        command.arg(&file).env("RUNTIME_DIRECTORY", dir.path()).env("STATE_DIRECTORY", dir.path());
        command.args(if format == Format::Debug { &["--log-level", "debug"][..] } else { &[] });
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut runner = command.spawn().expect("cannot start the runner");
        let log = Arc::<Mutex<Log>>::default();
        let (shared, stderr) = (log.clone(), runner.stderr.take().unwrap());
        std::thread::spawn(move || read(stderr, format, &shared));
        Self { dir, runner, log }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.runner.id().cast_signed())
    }

    fn touch(&self, name: &str) {
        fs::write(self.dir.path().join(name), "").unwrap();
    }

    /// A value of `/proc/PID/status`, in KiB.
    fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The memory once it is as little as that, or after a while.
    fn wait_for_little_memory(&self, little: u64) -> u64 {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let memory = self.memory("RssAnon");
            if memory <= little || Instant::now() > until {
                return memory;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Until the worker is ready.
    fn wait_for_status(&self) {
        let until = Instant::now() + DEADLINE;
        while !self.log.lock().unwrap().own.iter().any(|line| line.contains("worker says hello")) {
            assert!(Instant::now() < until, "no hello: {:?}", self.log.lock().unwrap());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Waits until the worker's output, or its counter, has advanced.
    fn wait_for_more_output(&self) {
        let bytes = || self.ask()["log"]["workerBytes"].as_u64().unwrap();
        let (begin, until) = (bytes(), Instant::now() + DEADLINE);
        while bytes() < begin + 1_000_000 {
            assert!(Instant::now() < until, "no flood");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// The time that the status socket took to answer.
    fn status(&self) -> Duration {
        let began = Instant::now();
        assert_eq!(self.ask()["state"], "running");
        began.elapsed()
    }

    fn ask(&self) -> Value {
        let mut stream = UnixStream::connect(self.dir.path().join("status.sock")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(b"{\"request\":\"status\"}\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn assert_lives(&self) {
        let status = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        assert!(!status.contains(") Z"), "the runner has ended: {:#?}", self.log.lock().unwrap());
    }

    /// The exit code and the log.
    fn ended(mut self) -> (Option<i32>, Log) {
        let code = self.runner.wait().unwrap().code();
        let until = Instant::now() + DEADLINE;
        while Arc::strong_count(&self.log) > 1 && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        (code, std::mem::take(&mut *self.log.lock().unwrap()))
    }
}

impl Drop for Flooded {
    fn drop(&mut self) {
        if let Ok(None) = self.runner.try_wait() {
            // Its process group; the worker has one of its own, and ends with the runner.
            self.runner.kill().ok();
            self.runner.wait().ok();
        }
    }
}

/// Keeps the runner's own lines, and counts the others.
fn read(mut stderr: ChildStderr, format: Format, log: &Mutex<Log>) {
    let mut block = vec![0; 1 << 16];
    let mut line = Vec::new();
    while let Ok(count @ 1..) = stderr.read(&mut block) {
        for part in block[..count].split_inclusive(|byte| *byte == b'\n') {
            // Lines of the runner are not longer.
            let room = (1_usize << 16).saturating_sub(line.len());
            line.extend_from_slice(part.get(..room).unwrap_or(part));
            if !part.ends_with(b"\n") {
                continue;
            }
            let of_worker = match format {
                Format::Text | Format::Debug => {
                    line.get(24..).is_some_and(|rest| rest.starts_with(b" [worker] "))
                }
                Format::Json => memchr::memmem::find(&line, b"\"source\":\"worker\"").is_some(),
            };
            let mut log = log.lock().unwrap();
            if of_worker {
                log.workers += 1;
            } else {
                log.own.push(String::from_utf8_lossy(&line).chars().take(300).collect());
            }
            line.clear();
        }
    }
}

/// The program under test.
fn program() -> PathBuf {
    std::env::var_os("START_WORKER_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_start-worker")), PathBuf::from)
}

/// The path at which cargo puts the test worker.
fn test_worker() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_start-worker")).parent().unwrap();
    let path = folder.join("examples/test-worker");
    assert!(
        path.exists(),
        "no {}: `cargo test` builds it, `--test floods` needs `--example test-worker`",
        path.display()
    );
    path
}
