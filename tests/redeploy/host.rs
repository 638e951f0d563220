//! A host: a folder that outlives its runners, the Taskcluster that its worker is of, and its cloud's metadata service.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::fake_metadata::{Cloud, FakeMetadata};
use test_support::fake_taskcluster::{FakeTaskcluster, Fault, ProviderType, Times, WorkerKey};

use crate::harness::{DEADLINE, Runner, Scene};

pub(crate) const REGISTER: &str = "registerWorker";
pub(crate) const REREGISTER: &str = "reregisterWorker";
pub(crate) const REMOVE: &str = "removeWorker";
pub(crate) const REPORT: &str = "reportWorkerError";
pub(crate) const TERMINATE: &str = "shouldWorkerTerminate";
pub(crate) const WORKER_POOL: &str = "workerPool";

const POOL: &str = "pp/ww";
const STATIC_SECRET: &str = "a-static-secret-is-of-forty-four-characters-";
const EC2_USER_DATA: &str = "/latest/user-data";
const EC2_INSTANCE: &str = "i-1234567890abcdef0";

/// The kind of host: a cloud's machine, which ends with its worker, or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Static,
    Aws,
}

/// One host.
pub(crate) struct Host {
    pub(crate) taskcluster: FakeTaskcluster,
    pub(crate) worker: WorkerKey,
    kind: Kind,
    metadata: Option<FakeMetadata>,
    folder: TempDir,
}

impl Host {
    /// Its worker's pool has deployment `d1`, which its workers may look at.
    pub(crate) fn new(kind: Kind) -> Self {
        let folder = folder();
        let taskcluster = FakeTaskcluster::start();
        taskcluster
            .grant(&format!("worker-pool:{POOL}"), &[&format!("worker-manager:get-worker-pool:{POOL}")]);
        taskcluster.add_provider("aws-example", ProviderType::Aws);
        let mut host = match kind {
            Kind::Static => {
                let worker = WorkerKey::new(POOL, "wg", "wi");
                Self { taskcluster, worker, kind, metadata: None, folder }
            }
            Kind::Aws => {
                let metadata = FakeMetadata::start(Cloud::Ec2, "127.0.0.1:0".parse().unwrap()).unwrap();
                let user_data = json!({
                    "workerPoolId": POOL, "providerId": "aws-example", "workerGroup": "wg",
                    "rootUrl": taskcluster.url(), "launchConfigId": "lc-d1",
                });
                metadata.tell(&format!("set {EC2_USER_DATA} {user_data}")).unwrap();
                let worker = WorkerKey::new(POOL, "wg", EC2_INSTANCE);
                Self { taskcluster, worker, kind, metadata: Some(metadata), folder }
            }
        };
        host.deploy("d1");
        host.worker = match kind {
            Kind::Static => host.taskcluster.add_static_worker(POOL, "wg", "wi", STATIC_SECRET),
            Kind::Aws => host.taskcluster.add_cloud_worker(POOL, "wg", EC2_INSTANCE),
        };
        host
    }

    pub(crate) fn fixed() -> Self {
        Self::new(Kind::Static)
    }

    pub(crate) fn aws() -> Self {
        Self::new(Kind::Aws)
    }

    /// The pool's definition is of this deployment now: by `deploymentId`, and for a cloud by `launchConfigId`, too.
    pub(crate) fn deploy(&self, id: &str) {
        let file = json!({
            "path": self.path("from-the-pool"), "content": STANDARD.encode(id), "encoding": "base64",
            "format": "file", "description": "",
        });
        let config = json!({"deploymentId": id, "deployed": id});
        // Of use to generic-worker alone.
        let worker_config = json!({"genericWorker": {"config": config, "files": [file]}});
        let definition = match self.kind {
            Kind::Static => json!({"config": {"workerConfig": worker_config}}),
            Kind::Aws => json!({"providerId": "aws-example", "config": {"launchConfigs": [
                {"workerManager": {"launchConfigId": format!("lc-{id}")}, "workerConfig": worker_config},
            ]}}),
        };
        self.taskcluster.set_pool(POOL, definition);
    }

    /// The pool's definition has this `config` now.
    pub(crate) fn set_pool_config(&self, config: &Value) {
        self.taskcluster.set_pool(POOL, json!({"config": config}));
    }

    /// A runner for generic-worker that looks for a new deployment at SIGHUP only.
    pub(crate) fn generic_worker(&self) -> Scene {
        self.runner(Scene::generic_worker())
    }

    /// The same for a worker of another implementation.
    pub(crate) fn command(&self) -> Scene {
        self.runner(Scene::new())
    }

    /// A runner of this host; what it keeps is there for the next one.
    fn runner(&self, scene: Scene) -> Scene {
        let folder = self.folder.path().to_str().unwrap();
        let provider = match self.kind {
            Kind::Static => json!({
                "providerType": "static", "rootURL": self.taskcluster.url(), "providerID": "static",
                "workerPoolID": POOL, "workerGroup": "wg", "workerID": "wi", "staticSecret": STATIC_SECRET,
            }),
            Kind::Aws => json!({"providerType": "aws", "onRebalance": "drain"}),
        };
        let scene = scene
            .set("provider", provider)
            .set("worker.configPath", self.path("worker.json").to_str().unwrap())
            .set("cacheOverRestarts", self.path("run.json").to_str().unwrap())
            .set("deployment.poll", false)
            .set("host.startFailureDelay", "0s")
            .env("STATE_DIRECTORY", folder)
            .env("RUNTIME_DIRECTORY", folder);
        match &self.metadata {
            Some(metadata) => scene.env("START_WORKER_EC2_METADATA_URL", &metadata.origin()),
            None => scene,
        }
    }

    /// A file on the host.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `wait-file` for the worker: until [`Host::let_go`] is called with this name.
    pub(crate) fn gate(&self, name: &str) -> String {
        format!("wait-file {}", self.path(name).display())
    }

    /// Opens the gate of this name.
    pub(crate) fn let_go(&self, name: &str) {
        std::fs::write(self.path(name), "").unwrap();
    }

    /// Starts a runner whose watch for notices, which asks at once, is made to wait for one.
    pub(crate) fn start_before_notices(&self, start: impl FnOnce() -> Runner) -> Runner {
        let registering = self.taskcluster.fail(REGISTER, Times::Only(1), Fault::Hang);
        let runner = start();
        self.wait_for(REGISTER, 1);
        // The runner knows its identity and does not watch yet.
        self.tell("fault /latest/meta-data/ hang");
        self.taskcluster.clear_fault(registering);
        runner
    }

    /// EC2 does this with the machine in two minutes: `terminate`, `hibernate`.
    pub(crate) fn give_notice(&self, action: &str) {
        let time = Timestamp::now() + SignedDuration::from_mins(2);
        let notice = json!({"action": action, "time": format!("{time:.0}")});
        self.tell(&format!("set /latest/meta-data/spot/instance-action {notice}"));
        self.tell("clear");
    }

    /// EC2 recommends to leave the machine.
    pub(crate) fn recommend_rebalance(&self) {
        let notice = json!({"noticeTime": format!("{:.0}", Timestamp::now())});
        self.tell(&format!("set /latest/meta-data/events/recommendations/rebalance {notice}"));
        self.tell("clear");
    }

    /// Tells the metadata service something.
    pub(crate) fn tell(&self, command: &str) {
        self.metadata.as_ref().expect("a cloud's host").tell(command).unwrap();
    }

    /// The deployment in the worker's configuration file.
    pub(crate) fn deployed(&self) -> String {
        let text = std::fs::read_to_string(self.path("worker.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        config["deployed"].as_str().unwrap_or_default().to_owned()
    }

    /// The content of the pool's file on the host.
    pub(crate) fn file(&self) -> String {
        std::fs::read_to_string(self.path("from-the-pool")).unwrap_or_default()
    }

    pub(crate) fn cache(&self) -> Cache {
        let Ok(text) = std::fs::read_to_string(self.path("run.json")) else { return Cache::Gone };
        let cache: Value = serde_json::from_str(&text).unwrap();
        if find(&cache, "leaving").is_some_and(|leaving| !leaving.is_null()) {
            return Cache::Removed;
        }
        Cache::Of(find(&cache, "deployed").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// The access token in the worker's configuration file.
    pub(crate) fn token_of_the_worker(&self) -> String {
        let text = std::fs::read_to_string(self.path("worker.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        config["accessToken"].as_str().unwrap().to_owned()
    }

    /// Waits until a call was made so often.
    #[track_caller]
    pub(crate) fn wait_for(&self, call: &str, times: usize) {
        self.taskcluster.wait_for(call, times, DEADLINE);
    }

    /// Waits until a call was answered so often.
    #[track_caller]
    pub(crate) fn wait_for_answers(&self, call: &str, times: usize) {
        self.taskcluster.wait_for_answers(call, times, DEADLINE);
    }

    #[track_caller]
    pub(crate) fn assert_called(&self, call: &str, times: usize) {
        assert_eq!(self.taskcluster.count(call), times, "{call}: {:#?}", self.taskcluster.requests());
    }

    /// Sets the lifetime of credentials that are issued from now on.
    pub(crate) fn set_credentials_life(&self, life: Duration) {
        self.taskcluster.set_credentials_life(life);
    }
}

/// A folder in memory where possible: on a busy disk the runner's syncs would take longer than a test waits.
fn folder() -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("start-worker-host-");
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).unwrap()
}

/// The state of the cache after a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cache {
    Gone,
    /// A run of this deployment.
    Of(String),
    /// The mark that the worker was removed.
    Removed,
}

impl Cache {
    pub(crate) fn of(id: &str) -> Self {
        Self::Of(id.to_owned())
    }
}

/// A call that is refused for want of a scope, as Taskcluster words it.
pub(crate) fn lacks_scope(scope: &str) -> Fault {
    let message = format!(
        "Client ID worker/x does not have sufficient scopes and is missing the following scopes:\n\n```\n{scope}\n```\n\n---\n\n* statusCode: 403"
    );
    let body = json!({"code": "InsufficientScopes", "message": message}).to_string();
    Fault::answer(403, "application/json", &body)
}

/// A refusal that no second attempt changes.
pub(crate) fn refusal() -> Fault {
    let body = json!({"code": "InputError", "message": "not now"}).to_string();
    Fault::answer(400, "application/json", &body)
}

/// The first value of this key, at any depth.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(object) => {
            object.get(key).or_else(|| object.values().find_map(|value| find(value, key)))
        }
        Value::Array(array) => array.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}
