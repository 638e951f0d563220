//! A machine: a folder, a runner configuration, and a Taskcluster that knows its worker.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use start_worker::clock::SystemClock;
use start_worker::credentials::Credentials;
use start_worker::host::private_file::Access;
use start_worker::run_spec::cache::{self, CachedRun};
use start_worker::taskcluster::{Client, Effort, Proxies, WorkerName};
use tempfile::TempDir;

use test_support::fake_metadata::{Cloud, FakeMetadata};
use test_support::fake_taskcluster::{FakeTaskcluster, Fault, ProviderType, Times, WorkerKey, WorkerState};
use test_support::processes;
use test_support::secrets::Secrets;

use crate::eventually;

/// Credentials that live so long are renewed after two seconds.
const LIFE: Duration = Duration::from_secs(32);

/// By this environment variable all processes of a machine are found.
const MARK: &str = "TEST_WORKER_MARK";

const STATIC_SECRET: &str = "made-up-static-secret-of-44-characters-12345";

/// The way the worker registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    /// As often as it likes.
    Static,
    /// Once.
    Google,
}

pub(crate) struct Machine {
    pub(crate) provider: Provider,
    pub(crate) fake: FakeTaskcluster,
    pub(crate) key: WorkerKey,
    metadata: Option<FakeMetadata>,
    folder: TempDir,
    mark: String,
    boots: AtomicUsize,
    /// All that were ever in play on it.
    secrets: Mutex<Secrets>,
}

impl Machine {
    pub(crate) fn new(provider: Provider, name: &str) -> Self {
        let fake = FakeTaskcluster::start();
        fake.set_credentials_life(LIFE);
        let pool = "kill/pool";
        let config = json!({"workerConfig": {"greeting": "hello"}});
        let (key, metadata) = match provider {
            Provider::Static => {
                fake.set_pool(pool, json!({"config": config}));
                (fake.add_static_worker(pool, "here", name, STATIC_SECRET), None)
            }
            Provider::Google => {
                fake.add_provider("google", ProviderType::Google);
                fake.set_pool(pool, json!({"providerId": "google", "config": config}));
                let metadata = FakeMetadata::start(Cloud::Gce, "127.0.0.1:0".parse().unwrap()).unwrap();
                let attribute = json!({
                    "workerPoolId": pool, "providerId": "google", "workerGroup": "here", "rootUrl": fake.url(),
                    "workerConfig": {},
                });
                let tell = |command: &str| metadata.tell(command).unwrap();
                tell(&format!("set /computeMetadata/v1/instance/attributes/taskcluster {attribute}"));
                tell(&format!("set /computeMetadata/v1/instance/id {name}"));
                (fake.add_cloud_worker(pool, "here", name), Some(metadata))
            }
        };
        fake.set_secret(
            "worker-pool:kill/pool",
            json!({"config": {"password": "made-up-password"}, "files": []}),
        );
        let folder = tempfile::Builder::new().prefix("start-worker-kill-").tempdir().unwrap();
        let mark = format!("kill-{}-{name}", std::process::id());
        let boots = AtomicUsize::new(0);
        let machine = Self { provider, fake, key, metadata, folder, mark, boots, secrets: Mutex::default() };
        machine.write_configuration();
        *machine.secrets.lock().unwrap() = Secrets::of_folder(machine.folder.path());
        machine
    }

    fn write_configuration(&self) {
        let provider = match self.provider {
            Provider::Static => json!({
                "providerType": "static", "rootURL": self.fake.url(), "providerID": "static",
                "workerPoolID": self.key.pool, "workerGroup": self.key.group, "workerID": self.key.id,
                "staticSecret": STATIC_SECRET,
            }),
            Provider::Google => json!({"providerType": "google"}),
        };
        let shutdown = format!("echo shutdown >> {}; kill -TERM $PPID", self.path("host-commands").display());
        let config = json!({
            "provider": provider,
            "worker": {
                "implementation": "command", "path": test_worker(), "configPath": self.path("worker/worker.json"),
                "args": ["hello new-credentials graceful-termination", "wait"], "credentialsInEnvironment": true,
            },
            "deployment": {"poll": false},
            "cacheOverRestarts": self.path("cache/run.json"),
            "host": {
                "shutdownCommand": ["/bin/sh", "-c", shutdown], "rebootCommand": ["true"],
                "forceShutdownCommand": ["true"], "forceRebootCommand": ["true"],
                "startFailureDelay": "0s",
            },
            "status": {"socket": null},
        });
        let path = self.path("runner.yml");
        // JSON is YAML.
        fs::write(&path, config.to_string()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Gives each step some width. `late`: calls are performed at once, and their answers take their time.
    pub(crate) fn slow_down(&self, late: bool, chance: &mut fastrand::Rng) {
        self.fake.clear_faults();
        for call in ["registerWorker", "reregisterWorker", "secret"] {
            let time = Duration::from_millis(chance.u64(80..160));
            let fault = if late { Fault::LateAnswer(time) } else { Fault::HangFor(time) };
            self.fake.fail(call, Times::UntilCleared, fault);
        }
    }

    pub(crate) fn speed_up(&self) {
        self.fake.clear_faults();
    }

    /// Starts the runner.
    pub(crate) fn boot(&self) -> Boot<'_> {
        self.fake.forget_requests();
        let secret_before = self.fake.one_time_secret(&self.key);
        // One for each boot, because a killed worker may leave half a line.
        let record = self.path(&format!("record-{}", self.boots.fetch_add(1, Ordering::Relaxed)));
        let log = File::options().append(true).create(true).open(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
        command.arg(self.path("runner.yml")).env(MARK, &self.mark);
        command.env("TEST_WORKER_RECORD", &record);
        command.env("RUNTIME_DIRECTORY", self.path("runtime")).env_remove("STATE_DIRECTORY");
        if let Some(metadata) = &self.metadata {
            command.env("START_WORKER_GCE_METADATA_URL", metadata.origin());
        }
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = Mutex::new(command.spawn().unwrap());
        Boot { machine: self, child, secret_before, record }
    }

    /// Everything that was logged by all its runners and workers.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The cached run; none: there is no file. Anything but a whole file is a failure.
    pub(crate) fn cache(&self) -> Option<CachedRun> {
        let read = cache::read(&self.path("cache/run.json"), Access::Refuse);
        read.unwrap_or_else(|fault| panic!("the cache is not whole: {fault}\n{}", self.log()))
    }

    /// Number of temporary files beside the cache that were to replace it.
    pub(crate) fn temporary_files(&self) -> usize {
        let Ok(folder) = fs::read_dir(self.path("cache")) else { return 0 };
        folder.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with(".tmp")).count()
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.fake.worker_state(&self.key) == Some(WorkerState::Running)
    }

    /// No process of the machine lives on without a runner.
    pub(crate) fn assert_nothing_lives(&self) {
        let mark = format!("{MARK}={}", self.mark);
        let mut living = Vec::new();
        let gone = eventually(|| {
            living = processes::with_environment(&mark);
            living.is_empty().then_some(())
        });
        assert!(gone.is_some(), "left behind: {living:?}\n{}", self.log());
    }

    /// Asserts that Taskcluster accepts the worker's credentials.
    pub(crate) fn assert_accepted(&self, credentials: &Credentials, when: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let name = WorkerName {
            worker_pool_id: self.key.pool.clone(),
            worker_group: self.key.group.clone(),
            worker_id: self.key.id.clone(),
        };
        let answer = runtime.block_on(async {
            let client = Client::new(&self.fake.url(), &Proxies::default(), Arc::new(SystemClock)).unwrap();
            client.should_worker_terminate(credentials, &name, Effort::Once).await
        });
        if let Err(refusal) = answer {
            panic!("{when}: the worker's credentials are refused: {refusal}\n{}", self.log());
        }
    }

    /// No secret that its runners ever knew is in their logs.
    pub(crate) fn assert_no_secrets(&self) {
        self.secrets.lock().unwrap().assert_kept(self.log().as_bytes());
    }

    /// Records the secrets that a runner knew: those it sent, received, and stored.
    fn remember_secrets(&self) {
        let mut secrets = self.secrets.lock().unwrap();
        secrets.add_folder(self.folder.path());
        self.fake
            .requests()
            .iter()
            .filter_map(|request| request.body.as_ref())
            .for_each(|body| secrets.add_value(body));
        if let Some(secret) = self.fake.one_time_secret(&self.key) {
            secrets.add("the one-time secret", &secret);
        }
    }

    /// The runner cannot register a second time, and has the host shut down: worker-manager makes another machine.
    pub(crate) fn assert_gives_up(&self) {
        self.speed_up();
        let boot = self.boot();
        let code = eventually(|| boot.child.lock().unwrap().try_wait().unwrap());
        let code = code.unwrap_or_else(|| panic!("the runner goes on\n{}", self.log())).code();
        assert!(code.is_some_and(|code| code != 0), "{code:?}\n{}", self.log());
        let commands = fs::read_to_string(self.path("host-commands")).unwrap_or_default();
        assert_eq!(commands, "shutdown\n", "{}", self.log());
    }
}

/// A runner, from its start to its end.
pub(crate) struct Boot<'a> {
    pub(crate) machine: &'a Machine,
    child: Mutex<Child>,
    /// The one-time secret that Taskcluster had when it started.
    pub(crate) secret_before: Option<String>,
    record: PathBuf,
}

impl Boot<'_> {
    /// The records of this boot's workers.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.record).unwrap_or_default();
        let complete = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        complete.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn worker_started(&self) -> bool {
        self.events().iter().any(|event| event["event"] == "start")
    }

    pub(crate) fn worker_told(&self) -> bool {
        self.events().iter().any(|event| event["type"] == "new-credentials")
    }

    /// SIGKILL; returns when the process is gone.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the runner has ended by itself: {status}\n{}", self.machine.log());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        self.machine.remember_secrets();
    }

    /// Waits for the worker; the credentials that it has.
    pub(crate) fn wait_for_worker(&self, when: &str) -> Credentials {
        let start = eventually(|| self.events().into_iter().find(|event| event["event"] == "start"));
        let Some(start) = start else { panic!("{when}: no worker\n{}", self.machine.log()) };
        let text = |name: &str| start["env"][name].as_str().map(str::to_owned);
        Credentials {
            client_id: text("TASKCLUSTER_CLIENT_ID").unwrap(),
            access_token: text("TASKCLUSTER_ACCESS_TOKEN").unwrap().into(),
            certificate: text("TASKCLUSTER_CERTIFICATE").map(Into::into),
            expires: None,
            obtained: None,
        }
    }
}

impl Drop for Boot<'_> {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        child.kill().ok();
        child.wait().ok();
    }
}

/// The path at which cargo puts the test worker.
fn test_worker() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_start-worker")).parent().unwrap();
    let path = folder.join("examples/test-worker");
    assert!(path.exists(), "no {}: build it with `--example test-worker`", path.display());
    path
}
