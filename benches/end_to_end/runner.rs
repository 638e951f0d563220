//! Starts runners and workers for the measurements.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// No single wait is longer, or something is broken.
const DEADLINE: Duration = Duration::from_secs(60);

/// The programs that are measured.
pub(crate) struct Binaries {
    pub(crate) runner: PathBuf,
    pub(crate) worker: PathBuf,
}

impl Binaries {
    pub(crate) fn find() -> Self {
        let runner = PathBuf::from(env!("CARGO_BIN_EXE_start-worker"));
        let worker = runner.with_file_name("examples").join("test-worker");
        Self { runner, worker }
    }

    /// The profile that cargo has built the runner with.
    pub(crate) fn profile(&self) -> String {
        let folder = self.runner.parent().and_then(Path::file_name).unwrap_or_default();
        let name = folder.to_string_lossy().into_owned();
        if name == "debug" { "dev".to_owned() } else { name }
    }
}

/// A runner configuration in a folder of its own, with a place for the worker's record.
pub(crate) struct Scene {
    dir: TempDir,
}

impl Scene {
    pub(crate) fn new(binaries: &Binaries, implementation: &str, script: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("cannot make a folder");
        let config = json!({
            "provider": {
                "providerType": "standalone", "rootURL": "https://tc.example.com", "clientID": "client",
                "accessToken": "made-up", "workerPoolID": "pp/ww", "workerGroup": "wg", "workerID": "bench",
            },
            "worker": match implementation {
                "dummy" => json!({"implementation": "dummy"}),
                _ => json!({
                    "implementation": implementation, "path": binaries.worker, "args": script,
                    "configPath": dir.path().join("worker.json"), "restartInPlace": true,
                }),
            },
            "supervision": {"maxRestarts": 100, "backoff": {"initial": "0s", "max": "1s"}},
            "host": {"shutdownCommand": ["true"], "rebootCommand": ["true"]},
            "status": {"socket": null},
            "getSecrets": false,
        });
        let path = dir.path().join("runner.yml");
        fs::write(&path, config.to_string()).expect("cannot write the runner configuration");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("cannot set its mode");
        Self { dir }
    }

    /// The runner's command; its log goes nowhere.
    pub(crate) fn command(&self, binaries: &Binaries) -> Command {
        let mut command = Command::new(&binaries.runner);
        command.arg(self.dir.path().join("runner.yml")).env("RUNTIME_DIRECTORY", self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The worker recorded beside the runner configuration.
    pub(crate) fn record(&self) -> PathBuf {
        self.dir.path().join("record")
    }

    /// The runner, with a record.
    pub(crate) fn start(&self, binaries: &Binaries, log: Stdio) -> Running {
        let mut command = self.command(binaries);
        command.env("TEST_WORKER_RECORD", self.record()).stderr(log);
        Running { child: command.spawn().expect("cannot start the runner"), record: self.record() }
    }
}

/// The worker alone.
pub(crate) fn worker(binaries: &Binaries, script: &[&str]) -> Command {
    let mut command = Command::new(&binaries.worker);
    command.args(script).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A process with a worker in it; killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    record: PathBuf,
}

impl Running {
    pub(crate) fn new(child: Child, record: PathBuf) -> Self {
        Self { child, record }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("cannot signal");
    }

    /// What was recorded so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.record).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for the worker's note; answers its time in µs.
    pub(crate) fn note(&self, text: &str) -> u64 {
        wait(text, || {
            let events = self.events();
            let note = events.iter().find(|event| event["text"] == text)?;
            note["mono"].as_u64()
        })
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) {
        self.child.wait().expect("cannot wait");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is fine. A runner that is killed takes its worker along.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits until there is an answer.
pub(crate) fn wait<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Lets time pass.
pub(crate) fn pause(duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        std::thread::park_timeout(end.saturating_duration_since(Instant::now()));
    }
}
