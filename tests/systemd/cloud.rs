//! A machine as an EC2 instance: its metadata service is at the real address, and its worker can register once.

use std::time::Duration;

use serde_json::json;
use test_support::fake_metadata::{Cloud, FakeMetadata};
use test_support::fake_taskcluster::ProviderType;

use crate::systemd::machine::{Machine, POOL};
use crate::systemd::service::Config;

const INSTANCE: &str = "i-1234567890abcdef0";

/// Makes a machine a cloud instance while it exists.
pub(crate) struct Instance {
    _metadata: FakeMetadata,
}

impl Instance {
    /// A worker of this machine is requested, with credentials that last so long.
    pub(crate) fn launch(machine: &Machine, life: Duration) -> Self {
        let listen = "169.254.169.254:80".parse().unwrap();
        let metadata = machine.in_network(move || FakeMetadata::start(Cloud::Ec2, listen)).unwrap();
        let user_data = json!({
            "workerPoolId": POOL, "providerId": "aws-example", "workerGroup": "wg",
            "rootUrl": machine.taskcluster.url(), "launchConfigId": "lc-d1",
        });
        metadata.tell(&format!("set /latest/user-data {user_data}")).unwrap();
        let taskcluster = &machine.taskcluster;
        taskcluster.add_provider("aws-example", ProviderType::Aws);
        taskcluster.set_pool(POOL, json!({"providerId": "aws-example", "config": {"launchConfigs": [
            {"workerManager": {"launchConfigId": "lc-d1"}, "workerConfig": {"genericWorker": {"config": {}}}},
        ]}}));
        taskcluster.add_cloud_worker(POOL, "wg", INSTANCE);
        taskcluster.set_credentials_life(life);
        Self { _metadata: metadata }
    }
}

/// The configuration of an instance's runner. What would switch the machine off is recorded, not done.
pub(crate) fn config(machine: &Machine, script: &[&str]) -> Config {
    Config::new(machine, script).set("provider", json!({"providerType": "aws"})).set(
        "host",
        json!({
            "shutdownCommand": ["sh", "-c", "touch /var/lib/record/shutdown; kill -TERM $PPID"], "startFailureDelay": "0s",
            "forceShutdownCommand": ["true"], "rebootCommand": ["true"], "forceRebootCommand": ["true"],
        }),
    )
}
