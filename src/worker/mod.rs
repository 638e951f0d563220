//! Worker implementations: one file each. An implementation turns a [`Run`] into a [`LaunchSpec`], and an exit status
//! into a meaning. It starts nothing and contacts nobody.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::event::{Exit, ExitStatus};

/// Everything the supervisor needs to start one worker and to understand how it ended.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    /// The implementation's name, as in `worker.implementation`.
    pub implementation: &'static str,
    /// The program: looked up in `PATH` where it has no slash.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Added to the runner's environment.
    pub env: BTreeMap<String, SecretString>,
    /// Where it starts; `None`: where the runner is.
    pub cwd: Option<PathBuf>,
    /// Whom it runs as; `None`: the runner's own user.
    pub user: Option<String>,
    /// Its OOM score adjustment, −1000 to 1000.
    pub oom_score_adj: i16,
    /// The configuration file to write before each start.
    pub config_file: Option<ConfigFile>,
    /// How long it may take to say hello.
    pub hello_timeout: Duration,
    /// Whether it can be started again without a boot between.
    pub restart_in_place: InPlace,
    /// `disableReboots: true` in its configuration: it leaves a needed reboot to its supervisor.
    pub disable_reboots: bool,
    /// Whether its log records tell when tasks start and finish (`WORKER_METRICS`).
    pub counts_tasks: bool,
    /// What its exits mean.
    pub explain: fn(ExitStatus) -> Exit,
}

/// A file with the worker's configuration. It holds credentials.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// Where it goes.
    pub path: PathBuf,
    /// What goes there.
    pub content: SecretString,
}

/// Whether a worker can be started again without a boot between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InPlace {
    /// It can.
    Yes,
    /// It cannot.
    No,
    /// Unknown until `<program> --version` is asked: it can unless the engine named there is `multiuser`.
    AskVersion,
}
