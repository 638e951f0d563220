//! A host and its environment: a folder with a disk in it, a clock, a Taskcluster, and the cloud's metadata service.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};
use test_support::fake_metadata::{Cloud, FakeMetadata};
use test_support::fake_taskcluster::{FakeTaskcluster, ProviderType, WorkerKey};
use test_support::hung_mount::Wait;
use test_support::processes::MARK;
use test_support::secrets::Secrets;

use crate::disk::Disk;
use crate::hung::Folder;
use crate::plan::{BOMB, Episode, FOLDERS, HUNG, Kind};
use crate::room::Room;

const POOL: &str = "pp/ww";
const GROUP: &str = "wg";
const STATIC_SECRET: &str = "a-static-secret-is-of-forty-four-characters-";
const TOKEN: &str = "made-up-security-token";

/// `supervision`, as short as a busy machine allows.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(2);
pub(crate) const KILL_TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);

/// The paths of the programs.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) runner: PathBuf,
    pub(crate) worker: PathBuf,
    pub(crate) clock: PathBuf,
}

/// One host. After a removal it has a new machine.
pub(crate) struct Host {
    pub(crate) kind: Kind,
    pub(crate) fake: FakeTaskcluster,
    pub(crate) metadata: Option<FakeMetadata>,
    pub(crate) key: WorkerKey,
    pub(crate) disk: Disk,
    /// Its other folders that can hang, by the names that plans have for them.
    folders: BTreeMap<&'static str, Folder>,
    /// Hangs for good, for workers that touch it.
    stuck: Option<Folder>,
    pub(crate) room: Room,
    /// The parts of the plan that are not possible here, with the reasons.
    pub(crate) skipped: Vec<String>,
    pub(crate) folder: PathBuf,
    mark: String,
    clock: File,
    /// By how much the host's clock is ahead of the machine's, in ms.
    ahead: i64,
    /// The same for Taskcluster's clock.
    server_ahead: i64,
    machines: usize,
    /// The cloud has given notice.
    pub(crate) doomed: bool,
    deployments: usize,
    programs: Programs,
}

impl Host {
    pub(crate) fn new(episode: &Episode, folder: &Path, programs: &Programs) -> Self {
        fs::create_dir_all(folder).expect("a folder");
        let fake = FakeTaskcluster::start_on(own_address(episode.number)).expect("a free port");
        fake.set_credentials_life(Duration::from_secs(episode.credentials_life));
        let (get, terminate) =
            (format!("worker-manager:get-worker-pool:{POOL}"), "worker-manager:should-worker-terminate:*");
        fake.grant(&format!("worker-pool:{POOL}"), &[&get, terminate]);
        for (id, kind) in
            [("aws", ProviderType::Aws), ("azure", ProviderType::Azure), ("google", ProviderType::Google)]
        {
            fake.add_provider(id, kind);
        }
        let secret = json!({"config": {"password": "made-up-password"}, "files": []});
        fake.set_secret("worker-pool:pp/ww", secret);
        let metadata = cloud(episode.host)
            .map(|cloud| FakeMetadata::start(cloud, "127.0.0.1:0".parse().unwrap()).expect("a free port"));
        let clock =
            File::options().read(true).write(true).create(true).truncate(true).open(folder.join("clock"));
        let mut host = Self {
            kind: episode.host,
            fake,
            metadata,
            key: WorkerKey::new(POOL, GROUP, ""),
            disk: Disk::new(folder.join("disk")),
            folders: FOLDERS.into_iter().map(|name| (name, Folder::new(folder.join(name)))).collect(),
            stuck: episode.has(HUNG).then(|| Folder::new(folder.join("stuck"))),
            room: Room::Unlimited,
            skipped: Vec::new(),
            folder: folder.to_owned(),
            mark: format!("{MARK}=campaign-{}-{}", std::process::id(), episode.number),
            clock: clock.expect("a file"),
            ahead: 0,
            server_ahead: 0,
            machines: 0,
            doomed: false,
            deployments: 0,
            programs: programs.clone(),
        };
        std::os::unix::fs::symlink(&programs.worker, host.path("worker/worker")).expect("our folder");
        if episode.has(BOMB) {
            match Room::little() {
                Ok(room) => host.room = room,
                Err(reason) => host.skipped.push(format!("fork bomb: {reason}")),
            }
        }
        host.hang_for_good();
        host.set_clock();
        host.deploy();
        host.replace_machine();
        host.write_configuration(episode);
        host
    }

    /// A machine that has never run takes the place of this one.
    pub(crate) fn replace_machine(&mut self) {
        self.machines += 1;
        self.doomed = false;
        fs::remove_dir_all(self.disk.folder.below().join("cache")).ok();
        self.resume();
        fs::remove_file(self.path("host-commands")).ok();
        let id = format!("i-{:017}", self.machines);
        self.key = match self.kind {
            Kind::Static => self.fake.add_static_worker(POOL, GROUP, &id, STATIC_SECRET),
            Kind::AwsProvisioner => WorkerKey::new(POOL, GROUP, &id),
            Kind::Aws | Kind::Azure | Kind::Google => self.fake.add_cloud_worker(POOL, GROUP, &id),
        };
        self.introduce(&id);
    }

    /// Gives the machine the identity that its launch would give it.
    fn introduce(&self, id: &str) {
        let (url, launch) = (self.fake.url(), format!("lc-{}", self.deployments));
        let about = json!({
            "workerPoolId": POOL, "providerId": cloud_name(self.kind), "workerGroup": GROUP, "rootUrl": url,
            "launchConfigId": launch, "workerConfig": {},
        });
        match self.kind {
            Kind::Static => {}
            Kind::Aws => {
                self.tell(&format!("set /latest/user-data {about}"));
                self.introduce_ec2(id);
            }
            Kind::AwsProvisioner => {
                let user_data = json!({
                    "data": {}, "capacity": 1, "workerType": "ww", "provisionerId": "pp", "region": GROUP,
                    "taskclusterRootUrl": url, "securityToken": TOKEN,
                });
                self.tell(&format!("set /latest/user-data {user_data}"));
                let scopes = ["assume:worker-pool:pp/ww", "secrets:get:worker-pool:pp/ww"];
                self.fake.add_legacy_secret(TOKEN, json!({}), &scopes);
                self.introduce_ec2(id);
            }
            Kind::Azure => {
                let tags = [
                    ("worker-pool-id", POOL),
                    ("provider-id", "azure"),
                    ("root-url", &url),
                    ("worker-group", GROUP),
                    ("launch-config-id", &launch),
                ];
                let tags = tags.map(|(name, value)| json!({"name": name, "value": value}));
                let instance = json!({
                    "compute": {"location": "eastus", "name": id, "vmId": id, "vmSize": "s", "tagsList": tags},
                    "network": {"interface": [{"ipv4": {"ipAddress": [
                        {"privateIpAddress": "10.0.0.4", "publicIpAddress": "203.0.113.29"}]}}]},
                });
                self.tell(&format!("set /metadata/instance {instance}"));
                self.tell("events []");
            }
            Kind::Google => {
                self.tell(&format!("set /computeMetadata/v1/instance/attributes/taskcluster {about}"));
                self.tell(&format!("set /computeMetadata/v1/instance/id {id}"));
                self.tell("set /computeMetadata/v1/instance/preempted FALSE");
            }
        }
    }

    fn introduce_ec2(&self, id: &str) {
        let document =
            json!({"instanceId": id, "region": GROUP, "availabilityZone": "wg-b", "version": "2017-09-30"});
        self.tell(&format!("set /latest/dynamic/instance-identity/document {document}"));
        self.tell(&format!("set /latest/meta-data/instance-id {id}"));
        self.tell("unset /latest/meta-data/spot/instance-action");
    }

    pub(crate) fn tell(&self, command: &str) {
        if let Some(metadata) = &self.metadata {
            metadata.tell(command).expect("a command that the fake knows");
        }
    }

    /// The cloud interrupts the machine.
    pub(crate) fn give_notice(&mut self, seconds: u64) {
        self.doomed = true;
        let at = jiff::Timestamp::now()
            + SignedDuration::from_millis(self.ahead)
            + SignedDuration::from_secs(i64::try_from(seconds).unwrap_or_default());
        match self.kind {
            Kind::Static => {}
            Kind::Aws | Kind::AwsProvisioner => {
                let notice = json!({"action": "terminate", "time": format!("{at:.0}")});
                self.tell(&format!("set /latest/meta-data/spot/instance-action {notice}"));
            }
            Kind::Azure => {
                let event = json!([{
                    "EventId": "e", "EventType": "Preempt", "ResourceType": "VirtualMachine",
                    "Resources": [self.key.id], "EventStatus": "Scheduled",
                    "NotBefore": at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string(), "Description": "",
                    "EventSource": "Platform", "DurationInSeconds": -1,
                }]);
                self.tell(&format!("events {event}"));
            }
            Kind::Google => self.tell("set /computeMetadata/v1/instance/preempted TRUE"),
        }
    }

    /// The pool's definition is another one from now on.
    pub(crate) fn deploy(&mut self) {
        self.deployments += 1;
        let id = self.deployments;
        let worker_config = json!({"command": {"config": {"deploymentId": format!("d{id}")}}});
        let definition = match self.kind {
            Kind::Static => json!({"providerId": "static", "config": {"workerConfig": worker_config}}),
            _ => json!({"providerId": cloud_name(self.kind), "config": {"launchConfigs": [
                {"workerManager": {"launchConfigId": format!("lc-{id}")}, "workerConfig": worker_config},
            ]}}),
        };
        self.fake.set_pool(POOL, definition);
    }

    fn write_configuration(&self, episode: &Episode) {
        let provider = match self.kind {
            Kind::Static => json!({
                "providerType": "static", "rootURL": self.fake.url(), "providerID": "static",
                "workerPoolID": POOL, "workerGroup": GROUP, "workerID": self.key.id,
                "staticSecret": STATIC_SECRET,
            }),
            kind => json!({"providerType": kind}),
        };
        let recorder = |name: &str| {
            json!(["/bin/sh", "-c", format!("echo {name} >> {}", self.path("host-commands").display())])
        };
        // A host that goes down tells the runner so.
        let record = format!("echo shutdown >> {}; kill -TERM $PPID", self.path("host-commands").display());
        let shutdown = json!(["/bin/sh", "-c", record]);
        let seconds = |duration: Duration| format!("{}s", duration.as_secs());
        let mut config = json!({
            "provider": provider,
            "worker": {
                "implementation": "command", "path": self.path("worker/worker"),
                "configPath": self.path("worker-config/worker.json"), "args": self.scripts(&episode.workers),
                "credentialsInEnvironment": true, "helloTimeout": "3s",
            },
            "supervision": {
                "restart": episode.restart, "onReboot": episode.on_reboot, "rebootTimeout": "2s",
                "maxRestarts": 6, "backoff": {"initial": "20ms", "max": "400ms"},
                "stopTimeout": seconds(STOP_TIMEOUT), "killTimeout": seconds(KILL_TIMEOUT),
                "drainTimeout": seconds(DRAIN_TIMEOUT),
            },
            "deployment": {"interval": "1s"},
            "host": {
                "shutdownCommand": shutdown, "rebootCommand": recorder("reboot"),
                "forceShutdownCommand": recorder("force shutdown"), "forceRebootCommand": recorder("force reboot"),
                "startFailureDelay": "1s",
            },
            "status": {"socket": self.status_socket()},
        });
        if self.kind.is_dynamic() {
            config["startTimeout"] = json!("8s");
        }
        if episode.cache {
            config["cacheOverRestarts"] = json!(self.disk.folder.path().join("cache/run.json"));
        }
        let path = self.configuration();
        // JSON is YAML.
        fs::write(&path, format!("{config:#}")).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("our file");
    }

    fn configuration(&self) -> PathBuf {
        self.path("runner.yml")
    }

    /// The test worker's arguments: the script of each start.
    fn scripts(&self, workers: &[Vec<String>]) -> Value {
        let stuck = self.path("stuck").display().to_string();
        let bombs = !matches!(self.room, Room::Unlimited);
        let statements = workers.iter().enumerate().flat_map(|(index, script)| {
            let and_later = if index + 1 == workers.len() { "+" } else { "" };
            let stuck = stuck.clone();
            script.iter().map(move |statement| {
                let statement = statement.replace(HUNG, &stuck);
                let statement = if bombs { statement } else { statement.replace(BOMB, "spawn child") };
                format!("start {}{and_later}: {statement}", index + 1)
            })
        });
        statements.collect()
    }

    /// The runner, ready to be started.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.room.command(&self.programs.runner);
        let (name, mark) = self.mark.split_once('=').unwrap_or_default();
        command.arg(self.configuration()).env(name, mark);
        command.env("TEST_WORKER_RECORD", self.record()).env("TEST_WORKER_ALONE", self.path("alone"));
        command.env("RUNTIME_DIRECTORY", self.path("runtime")).env("STATE_DIRECTORY", self.path("state"));
        command.env("LD_PRELOAD", &self.programs.clock).env("SHIFTED_CLOCK", self.path("clock"));
        command
            .env("NO_PROXY", format!("127.0.0.1,{}", self.fake.address().ip()))
            .env_remove("START_WORKER_LOG");
        if let Some(metadata) = &self.metadata {
            let variable = match self.kind {
                Kind::Azure => "START_WORKER_AZURE_METADATA_URL",
                Kind::Google => "START_WORKER_GCE_METADATA_URL",
                _ => "START_WORKER_EC2_METADATA_URL",
            };
            command.env(variable, metadata.origin());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// A mark in the environment of all its processes.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Not as the runner knows it: it never hangs.
    pub(crate) fn cache(&self) -> PathBuf {
        self.disk.folder.below().join("cache/run.json")
    }

    pub(crate) fn status_socket(&self) -> PathBuf {
        self.path("status.sock")
    }

    /// Output of the runner and its workers, in a folder that never hangs.
    pub(crate) fn add_secrets_to(&self, secrets: &mut Secrets) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            // As the list says it: nothing is looked at.
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                secrets.add_file(&entry.path());
            }
        }
        self.folders
            .values()
            .chain([&self.disk.folder])
            .for_each(|folder| secrets.add_folder(&folder.below()));
    }

    fn folder_mut(&mut self, name: &str) -> Option<&mut Folder> {
        if name == "cache" { Some(&mut self.disk.folder) } else { self.folders.get_mut(name) }
    }

    /// A folder of the runner's, or of its worker's, does not answer any more.
    pub(crate) fn hang(&mut self, name: &str) {
        let worker = self.programs.worker.clone();
        if let Some(Err(reason)) = self.folder_mut(name).map(|folder| folder.hang(Wait::Killable, &worker)) {
            self.skipped.push(format!("hung disk: {reason}"));
        }
    }

    /// Makes the folder answer again.
    pub(crate) fn answer(&mut self, name: &str) {
        if let Some(folder) = self.folder_mut(name) {
            folder.answer();
        }
    }

    /// Makes the disk stuck. Processes that access it cannot be killed.
    pub(crate) fn hang_for_good(&mut self) {
        let worker = self.programs.worker.clone();
        if let Some(Err(reason)) = self.stuck.as_mut().map(|stuck| stuck.hang(Wait::Endless, &worker)) {
            self.stuck = None;
            self.skipped.push(format!("worker in state D: {reason}"));
        }
    }

    /// Releases the processes that wait for the stuck disk, as a reboot would.
    pub(crate) fn release_stuck(&mut self) {
        self.stuck.iter_mut().for_each(Folder::answer);
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.path("record")
    }

    /// `shutdown` and `reboot`, as often as they were run since this was asked last.
    pub(crate) fn take_host_commands(&self) -> Vec<String> {
        let commands = self.host_commands();
        fs::remove_file(self.path("host-commands")).ok();
        commands
    }

    fn host_commands(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("host-commands")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Returns true if the reboot command was run.
    pub(crate) fn wants_reboot(&self) -> bool {
        self.host_commands().iter().any(|command| command == "reboot")
    }

    /// Resumes a host that is on hold.
    pub(crate) fn resume(&self) {
        if let Some(state) = self.folders.get("state") {
            fs::remove_file(state.below().join("held")).ok();
        }
    }

    /// The host's clock jumps, by so many seconds.
    pub(crate) fn jump(&mut self, seconds: i64) {
        self.ahead += seconds * 1000;
        self.set_clock();
    }

    /// The host sleeps, and the world goes on.
    pub(crate) fn sleep(&mut self, seconds: u64) {
        let seconds = i64::try_from(seconds).unwrap_or_default();
        self.jump(seconds);
        self.server_ahead += seconds * 1000;
        self.fake.set_clock_offset(SignedDuration::from_millis(self.server_ahead));
    }

    fn set_clock(&self) {
        let nanoseconds = self.ahead * 1_000_000;
        self.clock.write_all_at(&nanoseconds.to_ne_bytes(), 0).expect("our file");
    }

    /// Returns true if worker-manager knows the worker.
    pub(crate) fn is_known(&self) -> bool {
        self.fake.worker_state(&self.key).is_some()
    }

    /// By how many seconds the host's clock is wrong.
    pub(crate) fn skew(&self) -> i64 {
        (self.server_ahead - self.ahead).abs() / 1000
    }

    /// By how much the host's clock is behind Taskcluster's.
    pub(crate) fn behind(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.server_ahead - self.ahead).unwrap_or_default())
    }
}

/// A loopback address of its own, so that no other client can take a port that is free for a moment.
fn own_address(number: u64) -> SocketAddr {
    let [.., high, low] = (number * 2).to_be_bytes();
    (Ipv4Addr::new(127, 77, high, low | 1), 0).into()
}

fn cloud(kind: Kind) -> Option<Cloud> {
    match kind {
        Kind::Static => None,
        Kind::Aws | Kind::AwsProvisioner => Some(Cloud::Ec2),
        Kind::Azure => Some(Cloud::Azure),
        Kind::Google => Some(Cloud::Gce),
    }
}

/// The provider's ID, too.
fn cloud_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Static => "static",
        Kind::Aws | Kind::AwsProvisioner => "aws",
        Kind::Azure => "azure",
        Kind::Google => "google",
    }
}
