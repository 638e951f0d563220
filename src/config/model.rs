//! The types of a valid runner configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Map, Value};

pub use crate::host::autologin::DisplayManager;
use crate::host::autologin::name::{SessionName, Tty, UserName};
use crate::retry::FailureBackoff;

/// The complete runner configuration.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// `provider`: the source of the worker's identity.
    pub provider: ProviderConfig,
    /// `worker`: the program and its start.
    pub worker: WorkerSettings,
    /// `workerConfig`: the lowest-precedence source of the worker configuration.
    pub worker_config: Map<String, Value>,
    /// `getSecrets`.
    pub get_secrets: bool,
    /// `cacheOverRestarts`: the file that preserves the run across reboots.
    pub cache_over_restarts: Option<PathBuf>,
    /// `logging.implementation`.
    pub logging: LogFormat,
    /// `supervision`.
    pub supervision: Supervision,
    /// `deployment`.
    pub deployment: Deployment,
    /// `startTimeout`; `None`: the provider's default (15 min on dynamic hosts, unlimited elsewhere).
    pub start_timeout: Option<Duration>,
    /// `host`.
    pub host: HostSettings,
    /// `hooks`.
    pub hooks: Hooks,
    /// `events.file`.
    pub events_file: Option<PathBuf>,
    /// `autologin`.
    pub autologin: Autologin,
    /// `status.socket`. (Its default depends on `$RUNTIME_DIRECTORY` and is resolved later.)
    pub status_socket: StatusSocket,
    /// `metrics.listen`, an address with a port.
    pub metrics_listen: Option<std::net::SocketAddr>,
}

/// `status.socket`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusSocket {
    /// Not given: `status.sock` in the runtime directory.
    Default,
    /// `null`: no socket.
    None,
    At(PathBuf),
}

/// `provider`, by `providerType`.
#[derive(Debug, Clone)]
pub enum ProviderConfig {
    /// Identity and credentials are in the file.
    Standalone(StandaloneConfig),
    /// Identity and a registration secret are in the file.
    Static(StaticConfig),
    /// EC2.
    Aws(CloudConfig),
    /// Azure.
    Azure(CloudConfig),
    /// GCE.
    Google(CloudConfig),
    /// The legacy aws-provisioner.
    AwsProvisioner(CloudConfig),
}

/// The common part of `standalone` and `static`: the worker's identity and location.
#[derive(Debug, Clone)]
pub struct FixedIdentity {
    /// `rootURL`, http or https, trailing slashes stripped.
    pub root_url: String,
    /// `workerPoolID`: contains a slash with text on both sides.
    pub worker_pool_id: String,
    /// `workerGroup`, not empty.
    pub worker_group: String,
    /// `workerID`, not empty.
    pub worker_id: String,
    /// `providerMetadata`.
    pub provider_metadata: Map<String, Value>,
    /// `workerLocation`.
    pub worker_location: BTreeMap<String, String>,
}

/// `providerType: standalone`.
#[derive(Debug, Clone)]
pub struct StandaloneConfig {
    pub identity: FixedIdentity,
    /// `clientID`, not empty.
    pub client_id: String,
    /// `accessToken`, not empty.
    pub access_token: SecretString,
    /// `certificate`: a string that contains a JSON object (validated), unchanged.
    pub certificate: Option<SecretString>,
}

/// `providerType: static`.
#[derive(Debug, Clone)]
pub struct StaticConfig {
    pub identity: FixedIdentity,
    /// `providerID`, not empty.
    pub provider_id: String,
    /// `staticSecret`: 44 characters of `[a-zA-Z0-9_-]`.
    pub static_secret: SecretString,
}

/// The keys of the clouds' providers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CloudConfig {
    /// `onRebalance: drain` (aws only; elsewhere an unknown key).
    pub drain_on_rebalance: bool,
    /// `acknowledgeEvents` (azure only; elsewhere an unknown key).
    pub acknowledge_events: bool,
    /// `finishTasksIfDeadlineOver`: tasks may finish if an interruption is further away than this.
    pub finish_tasks_if_deadline_over: Option<Duration>,
}

/// `worker`.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// `implementation` and the keys that depend on it.
    pub implementation: Implementation,
    /// `args`: extra arguments, after the implementation's own.
    pub args: Vec<String>,
    /// `env`: added to the runner's environment.
    pub env: BTreeMap<String, String>,
    /// `cwd`.
    pub cwd: Option<PathBuf>,
    /// `user`: run the worker as this user.
    pub user: Option<String>,
    /// `helloTimeout`, default 30 s.
    pub hello_timeout: Duration,
    /// `restartInPlace`.
    pub restart_in_place: RestartInPlace,
    /// `oomScoreAdj`, −1000 to 1000, default 0.
    pub oom_score_adj: i16,
}

/// `worker.implementation`, with its own keys.
#[derive(Debug, Clone)]
pub enum Implementation {
    /// Starts no worker, and prints the run.
    Dummy {
        /// `showSecrets`.
        show_secrets: bool,
    },
    /// Taskcluster's generic-worker.
    GenericWorker {
        /// `path`; `None` if only `service` or `protocolPipe` is given: a Windows configuration, which loads but cannot
        /// start here.
        path: Option<PathBuf>,
        /// `configPath`.
        config_path: PathBuf,
    },
    /// Taskcluster's docker-worker (legacy).
    DockerWorker {
        /// `path`: the unpacked release, or a clone.
        path: PathBuf,
        /// `configPath`.
        config_path: PathBuf,
    },
    /// Any program.
    Command {
        /// `path`.
        path: PathBuf,
        /// `configPath`.
        config_path: Option<PathBuf>,
        /// `credentialsInEnvironment`.
        credentials_in_environment: bool,
    },
}

impl Implementation {
    /// The value of `worker.implementation`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dummy { .. } => "dummy",
            Self::GenericWorker { .. } => "generic-worker",
            Self::DockerWorker { .. } => "docker-worker",
            Self::Command { .. } => "command",
        }
    }

    /// The path of the worker's configuration file.
    pub fn config_path(&self) -> Option<&Path> {
        match self {
            Self::Dummy { .. } => None,
            Self::GenericWorker { config_path, .. } | Self::DockerWorker { config_path, .. } => {
                Some(config_path)
            }
            Self::Command { config_path, .. } => config_path.as_deref(),
        }
    }
}

/// `worker.restartInPlace`: determines whether a worker that has exited can be restarted without a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartInPlace {
    /// `auto`: determined from the worker and its configuration.
    #[default]
    Auto,
    /// `true`.
    Yes,
    /// `false`.
    No,
}

/// `logging.implementation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Human-readable lines.
    #[default]
    Stdio,
    /// One JSON object a line.
    Json,
    /// The journal's native protocol.
    Journald,
}

/// `supervision`. Durations are positive unless stated otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervision {
    /// `restart`.
    pub restart: Restart,
    /// `maxRestarts`, default 5: the number of restarts after crashes before the runner gives up.
    pub max_restarts: u32,
    /// `restartWindow`, default 10 min: a run longer than this resets the crash count.
    pub restart_window: Duration,
    /// `reportOutputLines`, default 0.
    pub report_output_lines: u32,
    /// `killDescendants`, default true.
    pub kill_descendants: bool,
    /// `backoff.initial`, default 1 s; may be zero.
    pub backoff_initial: Duration,
    /// `backoff.max`, default 1 min; not less than `backoff.initial`.
    pub backoff_max: Duration,
    /// `failureBackoff`, default 30 s to 30 min.
    pub failure_backoff: FailureBackoff,
    /// `drainTimeout`, default 24 h.
    pub drain_timeout: Duration,
    /// `stopTimeout`, default 60 s.
    pub stop_timeout: Duration,
    /// `killTimeout`, default 10 s.
    pub kill_timeout: Duration,
    /// `drainIdleTimeout`, default 60 s.
    pub drain_idle_timeout: Duration,
    /// `onReboot`.
    pub on_reboot: OnReboot,
    /// `rebootTimeout`, default 5 min.
    pub reboot_timeout: Duration,
    /// `afterRun`, default `exit`.
    pub after_run: AfterRun,
    /// `onUnfit`, default `restart`.
    pub on_unfit: OnUnfit,
    /// `quarantineFor`, default 24 h.
    pub quarantine_for: Duration,
    /// `maxTasks`; `None`: no limit.
    pub max_tasks: Option<u32>,
    /// `maxUptime`; `None`: no limit.
    pub max_uptime: Option<Duration>,
}

impl Default for Supervision {
    fn default() -> Self {
        Self {
            restart: Restart::OnFailure,
            max_restarts: 5,
            restart_window: Duration::from_secs(600),
            report_output_lines: 0,
            kill_descendants: true,
            backoff_initial: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            failure_backoff: FailureBackoff {
                initial: Duration::from_secs(30),
                max: Duration::from_secs(1800),
            },
            drain_timeout: Duration::from_secs(24 * 3600),
            stop_timeout: Duration::from_secs(60),
            kill_timeout: Duration::from_secs(10),
            drain_idle_timeout: Duration::from_secs(60),
            on_reboot: OnReboot::Auto,
            reboot_timeout: Duration::from_secs(300),
            after_run: AfterRun::Exit,
            on_unfit: OnUnfit::Restart,
            quarantine_for: Duration::from_secs(24 * 3600),
            max_tasks: None,
            max_uptime: None,
        }
    }
}

/// `supervision.restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Never, not even after a crash.
    Never,
    /// After a crash.
    OnFailure,
    /// Also after the worker has completed its work.
    Always,
}

/// `supervision.afterRun`: what follows an end of the worker that nobody asked for, and after which it is not started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterRun {
    /// The runner ends.
    Exit,
    /// The runner reboots the host.
    Reboot,
    /// The runner shuts the host down.
    PowerOff,
}

/// `supervision.onUnfit`: the reaction to generic-worker's exit 69.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnfit {
    /// Restart the worker, ever more rarely.
    Restart,
    /// The runner ends.
    Exit,
    /// The host holds until an operator resumes it.
    Hold,
    /// The queue gives the worker no tasks for `quarantineFor`, and the host holds for as long.
    Quarantine,
}

/// `supervision.onReboot`: the reaction to a worker's exit "reboot required".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnReboot {
    /// `restart` if the worker has `disableReboots: true` and can be restarted in place, otherwise `wait`.
    Auto,
    /// The worker has already requested the reboot.
    Wait,
    /// Restart the worker in place.
    Restart,
    /// The runner reboots the host.
    Reboot,
    /// Exit 70 at once.
    Exit,
}

/// `deployment`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// `poll`, default true.
    pub poll: bool,
    /// `interval`, default 5 min.
    pub interval: Duration,
}

impl Default for Deployment {
    fn default() -> Self {
        Self { poll: true, interval: Duration::from_secs(300) }
    }
}

/// `host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSettings {
    /// `shutdownOnStartFailure`, default true.
    pub shutdown_on_start_failure: bool,
    /// `startFailureDelay`, default 10 min; may be zero.
    pub start_failure_delay: Duration,
    /// `shutdownStatic`, default false.
    pub shutdown_static: bool,
    /// `shutdownCommand`: program and arguments, not empty.
    pub shutdown_command: Vec<String>,
    /// `rebootCommand`: program and arguments, not empty.
    pub reboot_command: Vec<String>,
    /// `forceShutdownCommand`: runs if `shutdownCommand` has not taken the host down. By default `None` if the operator
    /// configures a `shutdownCommand`.
    pub force_shutdown_command: Option<Vec<String>>,
    /// `forceRebootCommand`: runs if `rebootCommand` has not taken the host down, with a corresponding default.
    pub force_reboot_command: Option<Vec<String>>,
}

impl Default for HostSettings {
    fn default() -> Self {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect();
        Self {
            shutdown_on_start_failure: true,
            start_failure_delay: Duration::from_secs(600),
            shutdown_static: false,
            shutdown_command: words("shutdown -h now"),
            reboot_command: words("systemctl reboot"),
            force_shutdown_command: Some(words("systemctl poweroff --force")),
            force_reboot_command: Some(words("systemctl reboot --force")),
        }
    }
}

/// `hooks`: commands of the operator's around a worker's run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// `waitFor`: absolute paths; a start waits until all exist.
    pub wait_for: Vec<PathBuf>,
    /// `beforeStart`.
    pub before_start: Option<Hook>,
    /// `afterRun`.
    pub after_run: Option<Hook>,
}

/// A command with its time limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// `command`: program and arguments, not empty.
    pub command: Vec<String>,
    /// `timeout`, default 10 min.
    pub timeout: Duration,
}

/// `autologin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Autologin {
    /// `displayManager`.
    pub display_manager: DisplayManager,
    /// `user`: set at every start.
    pub user: Option<UserName>,
    /// `session`.
    pub session: Option<SessionName>,
    /// `tty`, for getty; default `tty1`.
    pub tty: Tty,
    /// `root`, the root directory of all files; default `/`.
    pub root: PathBuf,
    /// `allowedUsers`: a glob that a worker's request must match.
    pub allowed_users: Option<String>,
}

impl Default for Autologin {
    fn default() -> Self {
        Self {
            display_manager: DisplayManager::Auto,
            user: None,
            session: None,
            tty: Tty::default(),
            root: PathBuf::from("/"),
            allowed_users: None,
        }
    }
}
