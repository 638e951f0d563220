//! A cloud's machine: its metadata service, the Taskcluster that has requested it, and its disk, which outlives a start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::fake_metadata::{Cloud, FakeMetadata};
use test_support::fake_taskcluster::{FakeTaskcluster, ProviderType, Request, WorkerKey};

use crate::harness::{DEADLINE, Runner, Scene, eventually};

/// Of scripts: a worker that ends when it is asked to.
pub(crate) const OBEDIENT: [&str; 4] = ["on now: exit 0", "on finish: exit 0", "hello all", "wait"];

/// The worker configuration in the launch configuration of every pool here.
const WORKER_CONFIG: &str = r#"{"fromThePool": true, "list": ["pool"]}"#;

/// The legacy provisioner's token for one use.
pub(crate) const TOKEN: &str = "made-up-security-token";

/// Which machine. `EC2`, `AZURE`, `GCE` have registered workers, `LEGACY` one of the aws-provisioner.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) cloud: Cloud,
    pub(crate) provider: &'static str,
    pub(crate) pool: &'static str,
    pub(crate) provider_id: &'static str,
    pub(crate) group: &'static str,
    pub(crate) worker: &'static str,
}

pub(crate) const EC2: Kind = Kind {
    cloud: Cloud::Ec2,
    provider: "aws",
    pool: "proj-example/linux",
    provider_id: "aws-example",
    group: "us-west-2",
    worker: "i-1234567890abcdef0",
};

pub(crate) const AZURE: Kind = Kind {
    cloud: Cloud::Azure,
    provider: "azure",
    pool: "proj-example/win11",
    provider_id: "azure-example",
    group: "eastus",
    worker: "vm-8fh2k",
};

pub(crate) const GCE: Kind = Kind {
    cloud: Cloud::Gce,
    provider: "google",
    pool: "proj-example/linux",
    provider_id: "google-example",
    group: "us-east1",
    worker: "4242424242424242424",
};

pub(crate) const LEGACY: Kind = Kind {
    cloud: Cloud::Ec2,
    provider: "aws-provisioner",
    pool: "pp/ww",
    provider_id: "aws-provisioner",
    group: "us-west-2",
    worker: "i-1234567890abcdef0",
};

/// A machine. [`Machine::boot`] is one start of it.
pub(crate) struct Machine {
    pub(crate) kind: Kind,
    pub(crate) metadata: FakeMetadata,
    pub(crate) taskcluster: FakeTaskcluster,
    pub(crate) key: WorkerKey,
    disk: TempDir,
}

impl Machine {
    pub(crate) fn new(kind: Kind) -> Self {
        Self::at(kind, "127.0.0.1:0".parse().unwrap())
    }

    /// With its metadata service at this address.
    pub(crate) fn at(kind: Kind, address: SocketAddr) -> Self {
        let (metadata, taskcluster) =
            (FakeMetadata::start(kind.cloud, address).unwrap(), FakeTaskcluster::start());
        let provider = match kind.cloud {
            Cloud::Ec2 => ProviderType::Aws,
            Cloud::Azure => ProviderType::Azure,
            Cloud::Gce => ProviderType::Google,
        };
        taskcluster.add_provider(kind.provider_id, provider);
        let worker_config: Value = serde_json::from_str(WORKER_CONFIG).unwrap();
        let launch = json!({
            "workerConfig": worker_config,
            "workerManager": {"launchConfigId": "lc-1"},
        });
        taskcluster.set_pool(
            kind.pool,
            json!({"providerId": kind.provider_id, "config": {"launchConfigs": [launch]}}),
        );
        let key = taskcluster.add_cloud_worker(kind.pool, kind.group, kind.worker);
        let machine = Self { kind, metadata, taskcluster, key, disk: tempfile::tempdir().unwrap() };
        machine.introduce();
        machine
    }

    /// Gives the machine the URL of its Taskcluster, as its launch would.
    fn introduce(&self) {
        let (root_url, kind) = (format!("{}/", self.taskcluster.url()), self.kind);
        match (kind.cloud, kind.provider) {
            (_, "aws-provisioner") => self.set_user_data(&json!({})),
            (Cloud::Ec2, _) => {
                let user_data = json!({
                    "workerPoolId": kind.pool, "providerId": kind.provider_id, "workerGroup": kind.group,
                    "rootUrl": root_url, "launchConfigId": "lc-1", "workerConfig": {"ignored": true},
                });
                self.tell(&format!("set /latest/user-data {user_data}"));
            }
            (Cloud::Azure, _) => self.set_azure(&["worker-group"], &json!([interface()])),
            (Cloud::Gce, _) => {
                let attribute = json!({
                    "workerPoolId": kind.pool, "providerId": kind.provider_id, "workerGroup": kind.group,
                    "rootUrl": root_url, "workerConfig": {"ignored": true},
                });
                self.tell(&format!("set /computeMetadata/v1/instance/attributes/taskcluster {attribute}"));
            }
        }
    }

    /// The legacy provisioner's user-data, with other values for some keys; its secret is there.
    pub(crate) fn set_user_data(&self, changes: &Value) {
        let mut user_data = json!({
            "data": {"fromTheData": true, "genericWorker": {"config": {"inner": true}}}, "capacity": 1,
            "workerType": "ww", "provisionerId": "pp", "region": self.kind.group,
            "taskclusterRootUrl": self.taskcluster.url(), "securityToken": TOKEN,
        });
        for (key, value) in changes.as_object().unwrap() {
            user_data[key] = value.clone();
        }
        self.tell(&format!("set /latest/user-data {user_data}"));
        self.taskcluster.add_legacy_secret(TOKEN, json!({}), &["assume:worker-pool:pp/ww"]);
    }

    /// Azure's view of the machine, with the tags that a worker needs; `tags`: of the optional part of them.
    pub(crate) fn set_azure(&self, tags: &[&str], interfaces: &Value) {
        let kind = self.kind;
        let url = self.taskcluster.url();
        let all = [
            ("worker-pool-id", kind.pool),
            ("provider-id", kind.provider_id),
            ("root-url", url.as_str()),
            ("launch-config-id", "lc-1"),
        ];
        let group = tags.iter().map(|tag| (*tag, kind.group));
        let tags: Vec<Value> =
            all.into_iter().chain(group).map(|(name, value)| json!({"name": name, "value": value})).collect();
        let instance = json!({
            "compute": {
                "location": "eastus", "name": kind.worker, "vmId": "02aab8a4-74ef-476e-8182-f6d2ba4166a6",
                "vmSize": "Standard_F8s_v2", "tagsList": tags,
            },
            "network": {"interface": interfaces},
        });
        self.tell(&format!("set /metadata/instance {instance}"));
    }

    /// A command for the metadata service.
    #[track_caller]
    pub(crate) fn tell(&self, command: &str) {
        self.metadata.tell(command).unwrap();
    }

    /// The runner configuration and environment of this machine, with the `command` worker.
    pub(crate) fn scene(&self) -> Scene {
        self.furnish(Scene::new())
    }

    /// With generic-worker in the place of that.
    pub(crate) fn generic_worker(&self) -> Scene {
        self.furnish(Scene::generic_worker())
    }

    fn furnish(&self, scene: Scene) -> Scene {
        let variable = match self.kind.cloud {
            Cloud::Ec2 => "START_WORKER_EC2_METADATA_URL",
            Cloud::Azure => "START_WORKER_AZURE_METADATA_URL",
            Cloud::Gce => "START_WORKER_GCE_METADATA_URL",
        };
        scene
            .set("provider", json!({"providerType": self.kind.provider}))
            .set("host.startFailureDelay", "0s")
            .set("deployment.poll", false)
            .set("cacheOverRestarts", self.cache_path().to_str().unwrap())
            .env(variable, &self.metadata.origin())
            .env("STATE_DIRECTORY", self.disk.path().to_str().unwrap())
            .env("NO_PROXY", "127.0.0.1")
    }

    /// Starts the runner with this script for its worker.
    pub(crate) fn boot<S: AsRef<str>>(&self, script: impl IntoIterator<Item = S>) -> Runner {
        self.scene().worker(script).start()
    }

    /// Boots, and waits for the worker's hello.
    #[track_caller]
    pub(crate) fn booted<S: AsRef<str>>(&self, script: impl IntoIterator<Item = S>) -> Runner {
        let runner = self.boot(script);
        runner.wait_for_log("worker says hello");
        runner
    }

    pub(crate) fn cache_path(&self) -> PathBuf {
        self.disk.path().join("cache.json")
    }

    /// The content of the cache.
    #[track_caller]
    pub(crate) fn cache(&self) -> Value {
        read_cache(&self.cache_path())
    }

    /// Number of requests for a path of the metadata service.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.metadata.requests().iter().filter(|request| request.path() == path).count()
    }

    /// Waits until it was asked for so often.
    #[track_caller]
    pub(crate) fn wait_until_asked(&self, path: &str, times: usize) {
        let asked = eventually(|| (self.asked(path) >= times).then_some(()));
        assert!(asked.is_some(), "{path} was asked for {} times, not {times}", self.asked(path));
    }

    /// Waits for a call of Taskcluster's.
    pub(crate) fn wait_for_call(&self, call: &str, times: usize) {
        self.taskcluster.wait_for(call, times, DEADLINE);
    }

    /// The calls that Taskcluster has got, with what it answered.
    pub(crate) fn calls(&self) -> Vec<(&'static str, Option<u16>)> {
        self.taskcluster.requests().iter().map(|request| (request.call, request.status)).collect()
    }

    /// The only request of this call.
    #[track_caller]
    pub(crate) fn only(&self, call: &str) -> Request {
        let mut requests = self.taskcluster.requests();
        requests.retain(|request| request.call == call);
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests.remove(0)
    }

    /// Tells EC2's machine that it will be taken away.
    pub(crate) fn spot(&self, action: &str, after: Duration) {
        let time = jiff::Timestamp::now() + after;
        self.tell(&format!(r#"set {ACTION} {{"action": "{action}", "time": "{time:.0}"}}"#));
    }

    /// Azure's scheduled events: id, type, the machines that it is for, in how many seconds.
    pub(crate) fn events(&self, events: &[(&str, &str, &[&str], u64)]) {
        let events: Vec<Value> = events.iter().map(|event| scheduled(*event)).collect();
        self.tell(&format!("events {}", json!(events)));
    }
}

/// EC2's notice of a spot instance's end.
pub(crate) const ACTION: &str = "/latest/meta-data/spot/instance-action";
/// Azure's notices.
pub(crate) const EVENTS: &str = "/metadata/scheduledevents";
/// GCE's notice.
pub(crate) const PREEMPTED: &str = "/computeMetadata/v1/instance/preempted";

fn scheduled((id, kind, machines, after): (&str, &str, &[&str], u64)) -> Value {
    let time = std::time::SystemTime::UNIX_EPOCH
        + Duration::from_secs(u64::try_from(jiff::Timestamp::now().as_second()).unwrap() + after);
    json!({
        "EventId": id, "EventType": kind, "ResourceType": "VirtualMachine", "Resources": machines,
        "EventStatus": "Scheduled", "NotBefore": httpdate::fmt_http_date(time), "Description": "",
        "EventSource": "Platform", "DurationInSeconds": -1,
    })
}

/// A network interface with one address.
pub(crate) fn interface() -> Value {
    json!({"ipv4": {"ipAddress": [{"privateIpAddress": "10.0.0.4", "publicIpAddress": "203.0.113.29"}]}})
}

/// Reads a cache, which is replaced at once, never in parts.
pub(crate) fn read_cache(path: &std::path::Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The lines of the runner's log from the first one that contains this text.
pub(crate) fn log_from(log: &str, text: &str) -> Vec<String> {
    log.lines().skip_while(|line| !line.contains(text)).map(str::to_owned).collect()
}

/// Runs each of these on a thread of its own: they mostly wait.
pub(crate) fn at_once<T: Send>(cases: impl IntoIterator<Item = T>, run: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        let running: Vec<_> = cases.into_iter().map(|case| scope.spawn(|| run(case))).collect();
        for thread in running {
            if let Err(failure) = thread.join() {
                std::panic::resume_unwind(failure);
            }
        }
    });
}
