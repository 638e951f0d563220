//! A Taskcluster with one pool and one static worker, and a folder that outlives the runners that are started there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::fake_taskcluster::{FakeTaskcluster, Fault, Times, WorkerKey};

use crate::harness::{DEADLINE, Ended, Runner, Scene};

pub(crate) const POOL: &str = "demo/linux";
pub(crate) const GROUP: &str = "here";
pub(crate) const WORKER: &str = "worker-1";
pub(crate) const STATIC_SECRET: &str = "not-a-secret-but-secrets-have-44-characters-";

/// Time limit for events that happen at once.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(10);

/// A worker that works until it is told to stop.
pub(crate) const WORKS: [&str; 5] = ["on now: exit 0", "await welcome", "hello all", "note ready", "wait"];

pub(crate) struct Site {
    pub(crate) taskcluster: FakeTaskcluster,
    pub(crate) worker: WorkerKey,
    dir: TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with_taskcluster(FakeTaskcluster::start())
    }

    pub(crate) fn with_taskcluster(taskcluster: FakeTaskcluster) -> Self {
        taskcluster.set_pool(POOL, json!({"config": {}}));
        let worker = taskcluster.add_static_worker(POOL, GROUP, WORKER, STATIC_SECRET);
        let dir = tempfile::Builder::new().prefix("start-worker-registration-").tempdir().unwrap();
        Self { taskcluster, worker, dir }
    }

    /// Whose credentials live so many seconds.
    pub(crate) fn with_life(seconds: u64) -> Self {
        let site = Self::new();
        site.taskcluster.set_credentials_life(Duration::from_secs(seconds));
        site
    }

    /// Whose first credentials are due at once, and are renewed once: when [`Site::let_renew`] says so.
    pub(crate) fn with_one_renewal() -> Self {
        let site = Self::with_life(20);
        site.taskcluster.fail("reregisterWorker", Times::Only(1), Fault::Hang);
        site
    }

    pub(crate) fn let_renew(&self, runner: &Runner) {
        runner.wait_for_start(1);
        self.wait_for("reregisterWorker", 1);
        self.taskcluster.set_credentials_life(Duration::from_secs(24 * 3600));
        self.taskcluster.clear_faults();
    }

    /// Sets the worker configuration that a registration returns.
    pub(crate) fn set_worker_config(&self, value: &Value) {
        self.taskcluster.set_pool(POOL, json!({"config": {"workerConfig": value}}));
    }

    pub(crate) fn set_pool_secret(&self, value: &Value) {
        self.taskcluster.set_secret(&format!("worker-pool:{POOL}"), value.clone());
    }

    /// A `command` worker that registers, fetches no secrets, and keeps no cache.
    pub(crate) fn scene(&self) -> Scene {
        self.place(Scene::new())
    }

    /// The same with a cache.
    pub(crate) fn cached_scene(&self) -> Scene {
        self.scene().set("cacheOverRestarts", self.text_path("cache.json"))
    }

    /// The `provider` section of the static worker.
    pub(crate) fn provider(&self) -> Value {
        json!({
            "providerType": "static", "rootURL": self.taskcluster.url(), "providerID": "static",
            "workerPoolID": POOL, "workerGroup": GROUP, "workerID": WORKER, "staticSecret": STATIC_SECRET,
        })
    }

    /// Has a scene register here, and write its worker's configuration into this folder.
    pub(crate) fn place(&self, scene: Scene) -> Scene {
        let scene = scene.set("provider", self.provider()).set("deployment.poll", false);
        scene.set("worker.configPath", self.text_path("worker.json")).worker(WORKS)
    }

    /// A file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text_path(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The worker's configuration file.
    pub(crate) fn worker_file(&self) -> String {
        std::fs::read_to_string(self.path("worker.json")).unwrap()
    }

    pub(crate) fn worker_config(&self) -> Value {
        serde_json::from_str(&self.worker_file()).unwrap()
    }

    pub(crate) fn cache(&self) -> Value {
        read_json(&self.path("cache.json"))
    }

    /// The bodies of these calls, in order.
    pub(crate) fn bodies(&self, call: &str) -> Vec<Value> {
        let requests = self.taskcluster.requests();
        requests
            .into_iter()
            .filter(|request| request.call == call)
            .filter_map(|request| request.body)
            .collect()
    }

    /// The calls, in order.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.taskcluster.requests().iter().map(|request| request.call).collect()
    }

    /// Waits for so many calls.
    #[track_caller]
    pub(crate) fn wait_for(&self, call: &str, times: usize) {
        self.taskcluster.wait_for(call, times, DEADLINE);
    }
}

pub(crate) fn read_json(path: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// An item of `files`.
pub(crate) fn file(path: &str, description: &str, content: &[u8], format: &str) -> Value {
    json!({
        "path": path, "description": description, "content": STANDARD.encode(content), "encoding": "base64",
        "format": format,
    })
}

/// Asks the runner to stop; it does so at once, as intended.
#[track_caller]
pub(crate) fn stop(runner: &Runner) -> Ended {
    let asked = runner.signal(Signal::SIGTERM);
    let end = runner.end();
    assert!(end.saturating_duration_since(asked) < AT_ONCE, "the stop took its time\n{runner}");
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{runner}");
    runner.assert_nothing_left();
    ended
}

/// Waits until the worker has said hello.
#[track_caller]
pub(crate) fn ready(runner: &Runner) {
    runner.wait_for_note("ready");
}

/// Starts, waits until the worker has said hello, and stops.
#[track_caller]
pub(crate) fn once(scene: Scene) -> Ended {
    let runner = scene.start();
    ready(&runner);
    stop(&runner)
}

/// The first line of the log with this text.
#[track_caller]
pub(crate) fn line<'a>(log: &'a str, text: &str) -> &'a str {
    log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no `{text}` in the log:\n{log}"))
}

/// Number of lines of the log that contain this text.
pub(crate) fn lines(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}

/// Asserts that nothing in a log gives a secret away.
#[track_caller]
pub(crate) fn assert_discreet(log: &str, secrets: &[&str]) {
    for secret in secrets {
        assert!(!secret.is_empty() && !log.contains(secret), "the log shows {secret}:\n{log}");
    }
}

/// The time from one moment to a later one.
pub(crate) fn between(earlier: Instant, later: Instant) -> Duration {
    later.saturating_duration_since(earlier)
}
