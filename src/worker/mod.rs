//! Worker implementations: one file each. An implementation converts a [`Run`] to a [`LaunchSpec`], and interprets exit
//! statuses. It starts no process and contacts no service.
//!
//! To add one: a variant of [`Implementation`], a file here with its `configure` (its settings in the worker
//! configuration), `start` (its command line) and `explain` (the meaning of its exit statuses), and its arms in
//! [`final_config`] and [`launch`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use crate::config::{Implementation, RestartInPlace, WorkerSettings};
use crate::credentials::Credentials;
use crate::event::{Exit, ExitClass, ExitStatus};
use crate::host::atomic::{self, Attributes, Owner, WriteError};
use crate::run_spec::Run;
use crate::run_spec::worker_config::Merged;

mod command;
mod docker_worker;
pub mod dummy;
pub mod generic_worker;
#[cfg(test)]
mod tests;

/// The action for a run.
#[derive(Debug, Clone)]
pub enum Launch {
    /// Start a worker.
    Start(Box<LaunchSpec>),
    /// Start no worker, and print the run with [`dummy::show`].
    Show {
        /// True to show secrets, too.
        secrets: bool,
    },
}

/// The reason why a run cannot become a worker on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// A configuration for Windows.
    #[error(
        "worker.path is missing: worker.service and worker.protocolPipe start generic-worker as a Windows service, \
         which does not exist here; set worker.path to the generic-worker binary"
    )]
    WindowsOnly,
}

/// All data that the supervisor needs to start one worker and to interpret its exit.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    /// The implementation's name, as in `worker.implementation`.
    pub implementation: &'static str,
    /// The program, looked up in `PATH` if it has no slash.
    pub program: PathBuf,
    /// The alternative if the program does not exist.
    pub or_else: Option<OrElse>,
    pub args: Vec<String>,
    /// Added to the runner's environment.
    pub env: BTreeMap<String, SecretString>,
    /// The working directory; `None`: the runner's.
    pub cwd: Option<PathBuf>,
    /// The user; `None`: the runner's own.
    pub user: Option<String>,
    /// The OOM score adjustment, −1000 to 1000.
    pub oom_score_adj: i16,
    /// The configuration file to write before each start.
    pub config_file: Option<ConfigFile>,
    /// The credentials in the configuration, for a worker that accepts new ones.
    pub credentials: Credentials,
    /// The number of renewals before this was made.
    pub renewals: u32,
    /// Time limit for the worker's hello.
    pub hello_timeout: Duration,
    /// Determines whether the worker can be restarted without a reboot.
    pub restart_in_place: InPlace,
    /// `disableReboots: true` in the worker's configuration: the worker leaves a required reboot to its supervisor.
    pub disable_reboots: bool,
    /// True if the worker's log records show when tasks start and finish (`WORKER_METRICS`).
    pub counts_tasks: bool,
    /// Interprets the worker's exit status.
    pub explain: fn(ExitStatus) -> Exit,
}

/// An alternative program, and an additional first argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrElse {
    pub program: PathBuf,
    pub first: String,
}

impl LaunchSpec {
    /// Selects the program that exists on this host. Accesses the file system, which can hang.
    #[must_use]
    pub fn on_this_host(mut self) -> Self {
        if let Some(OrElse { program, first }) = self.or_else.take()
            && !self.program.exists()
        {
            self.program = program;
            self.args.insert(0, first);
        }
        self
    }
}

/// A file with the worker's configuration. It contains credentials.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    pub path: PathBuf,
    pub content: SecretString,
}

/// Determines whether a worker can be restarted without a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InPlace {
    /// Possible.
    Yes,
    /// Impossible.
    No,
    /// Unknown until `<program> --version` is run: possible unless it names the engine `multiuser`.
    AskVersion,
}

impl ConfigFile {
    /// Writes the file, accessible only by its owner. Missing directories are created.
    pub fn write(&self, owner: Option<Owner>) -> Result<(), WriteError> {
        let attributes = Attributes { mode: 0o600, owner };
        atomic::replace(&self.path, self.content.expose_secret().as_bytes(), attributes, 0o755)
    }
}

/// Determines the action for `run`, given the runner configuration's `worker` section. Fails if the worker cannot be
/// started on this kind of host.
pub fn launch(run: &Run, settings: &WorkerSettings) -> Result<Launch, WorkerError> {
    let config = final_config(run, settings)?;
    let start = match &settings.implementation {
        Implementation::Dummy { show_secrets } => return Ok(Launch::Show { secrets: *show_secrets }),
        Implementation::GenericWorker { path, config_path } => generic_worker::start(
            path.as_deref().ok_or(WorkerError::WindowsOnly)?,
            &from_here(config_path),
            &config,
        ),
        Implementation::DockerWorker { path, config_path } => {
            docker_worker::start(&from_here(path), &from_here(config_path), &config)
        }
        Implementation::Command { path, config_path, credentials_in_environment } => {
            let credentials = credentials_in_environment.then_some(&run.credentials);
            command::start(path, config_path.as_deref().map(from_here).as_deref(), &config, credentials)
        }
    };
    Ok(Launch::Start(Box::new(assemble(start, &config, run, settings))))
}

/// Makes a path absolute, because it is relative to the runner's working directory and not to the worker's
/// (`worker.cwd`).
fn from_here(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Checks that this kind of worker can be started on this kind of host.
pub fn usable(settings: &WorkerSettings) -> Result<(), WorkerError> {
    match settings.implementation {
        Implementation::GenericWorker { path: None, .. } => Err(WorkerError::WindowsOnly),
        _ => Ok(()),
    }
}

/// The complete worker configuration, including the implementation's settings. `check` prints it, and the cache stores
/// it.
pub fn final_config(run: &Run, settings: &WorkerSettings) -> Result<Merged, WorkerError> {
    usable(settings)?;
    let mut config = run.worker_config.clone();
    match &settings.implementation {
        Implementation::Dummy { .. } => {}
        Implementation::GenericWorker { .. } => generic_worker::configure(&mut config, run),
        Implementation::DockerWorker { .. } => docker_worker::configure(&mut config, run),
        Implementation::Command { .. } => command::configure(&mut config, run),
    }
    Ok(config)
}

/// The keys of the worker configuration that are for the runner, and are not written for the worker.
pub fn left_out(config: &Merged, settings: &WorkerSettings) -> Vec<&'static str> {
    let all: &[_] = match settings.implementation {
        Implementation::GenericWorker { .. } => &generic_worker::FOR_THE_RUNNER,
        _ => &[],
    };
    all.iter().copied().filter(|key| config.get(key).is_some()).collect()
}

/// The implementation-specific part of a [`LaunchSpec`].
struct Start {
    program: PathBuf,
    or_else: Option<OrElse>,
    args: Vec<String>,
    env: BTreeMap<String, SecretString>,
    config_file: Option<ConfigFile>,
    restart_in_place: InPlace,
    counts_tasks: bool,
    explain: fn(ExitStatus) -> Exit,
}

fn assemble(start: Start, config: &Merged, run: &Run, settings: &WorkerSettings) -> LaunchSpec {
    let Start { program, mut args, env: own, .. } = start;
    args.extend(settings.args.iter().cloned());
    let mut env: BTreeMap<_, SecretString> =
        settings.env.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    // The runner's variables take precedence, because a worker with two identities is useless to both.
    env.extend(own);
    env.insert("TASKCLUSTER_ROOT_URL".to_owned(), run.root_url.clone().into());
    env.insert("TASKCLUSTER_WORKER_LOCATION".to_owned(), location_text(run).into());
    LaunchSpec {
        implementation: settings.implementation.name(),
        program,
        or_else: start.or_else,
        args,
        env,
        cwd: settings.cwd.clone(),
        user: settings.user.clone(),
        oom_score_adj: settings.oom_score_adj,
        config_file: start.config_file,
        credentials: run.credentials.clone(),
        renewals: 0,
        hello_timeout: settings.hello_timeout,
        restart_in_place: match settings.restart_in_place {
            RestartInPlace::Auto => start.restart_in_place,
            RestartInPlace::Yes => InPlace::Yes,
            RestartInPlace::No => InPlace::No,
        },
        disable_reboots: is_true(config, "disableReboots"),
        counts_tasks: start.counts_tasks,
        explain: start.explain,
    }
}

/// The worker's location as a JSON object in a string.
fn location_text(run: &Run) -> String {
    let location: Map<_, _> =
        run.worker_location.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    Value::Object(location).to_string()
}

/// Builds a worker's configuration file. JSON objects keep their keys sorted.
fn config_file(path: PathBuf, object: Map<String, Value>) -> ConfigFile {
    ConfigFile { path, content: format!("{:#}\n", Value::Object(object)).into() }
}

/// Sets keys of the worker configuration from the provider's metadata, if it has the values.
fn set_from_metadata(config: &mut Merged, run: &Run, keys: &[(&str, &str)]) {
    for (key, metadata) in keys {
        if let Some(value) = run.provider_metadata.get(*metadata) {
            config.set(&[key], value.clone());
        } else {
            tracing::debug!(key, metadata, "not set: the provider's metadata does not have it");
        }
    }
}

/// Sets `certificate` if there is one. A certificate of other credentials, from an older cache, would invalidate the
/// current ones.
fn set_certificate(config: &mut Merged, path: &[&str], run: &Run) {
    match &run.credentials.certificate {
        Some(certificate) => config.set(path, certificate.expose_secret().into()),
        None => {
            config.remove(path);
        }
    }
}

fn is_true(config: &Merged, key: &str) -> bool {
    config.get(key) == Some(&Value::Bool(true))
}

/// The meaning of a failure for which the worker's implementation has none. A shell exits with 128+n when signal n
/// ended its child.
fn failure(code: i32) -> &'static str {
    static SIGNALS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let meaning = |number| format!("the signal {number} of a child, through a wrapper");
        (0..=libc::SIGRTMAX()).map(meaning).collect()
    });
    let signal = code.checked_sub(128).filter(|signal| *signal > 0);
    let meaning = signal.and_then(|signal| SIGNALS.get(usize::try_from(signal).ok()?));
    meaning.map_or("failed", String::as_str)
}

fn explain_plainly(status: ExitStatus) -> Exit {
    let (class, meaning) = match status {
        ExitStatus::Code(0) => (ExitClass::Done, "done"),
        ExitStatus::Code(67) => (ExitClass::Reboot, "reboot required"),
        ExitStatus::Code(code) => (ExitClass::Crash, failure(code)),
        ExitStatus::Signal(libc::SIGTERM | libc::SIGINT) => (ExitClass::Interrupted, "told to stop"),
        ExitStatus::Signal(libc::SIGKILL) => (ExitClass::Crash, "killed"),
        ExitStatus::Signal(_) => (ExitClass::Crash, "crashed"),
        ExitStatus::Stuck => return Exit::STUCK,
    };
    Exit { status, class, meaning }
}
