//! Worker implementations: one file each. An implementation turns a [`Run`] into a [`LaunchSpec`], and an exit status
//! into a meaning. It starts nothing and contacts nobody.
//!
//! To add one: a variant of [`Implementation`], a file here with its `configure` (what it sets in the worker
//! configuration), `start` (how it is started) and `explain` (what its exits mean), and its arms in [`final_config`]
//! and [`launch`].

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

/// What is to be done with a run.
#[derive(Debug, Clone)]
pub enum Launch {
    /// Start a worker.
    Start(Box<LaunchSpec>),
    /// Start nothing, show the run with [`dummy::show`].
    Show {
        /// Whether to show secrets, too.
        secrets: bool,
    },
}

/// A run that cannot become a worker on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// A set-up for Windows.
    #[error(
        "worker.path is missing: worker.service and worker.protocolPipe start generic-worker as a Windows service, \
         which does not exist here; set worker.path to the generic-worker binary"
    )]
    WindowsOnly,
}

/// Everything the supervisor needs to start one worker and to understand how it ended.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    /// The implementation's name, as in `worker.implementation`.
    pub implementation: &'static str,
    /// The program: looked up in `PATH` where it has no slash.
    pub program: PathBuf,
    /// The program that is started if there is no such program.
    pub or_else: Option<OrElse>,
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
    /// The credentials in it: for a worker that can be told of new ones.
    pub credentials: Credentials,
    /// How often they had been renewed when this was made.
    pub renewals: u32,
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

/// Another program, and the argument that it gets before the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrElse {
    /// The program.
    pub program: PathBuf,
    /// Its first argument.
    pub first: String,
}

impl LaunchSpec {
    /// The same, with the program that is on this host. Looks at the file system, which can hang.
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

impl ConfigFile {
    /// Writes the file, for its owner only. Directories that are missing on the way are made.
    pub fn write(&self, owner: Option<Owner>) -> Result<(), WriteError> {
        let attributes = Attributes { mode: 0o600, owner };
        atomic::replace(&self.path, self.content.expose_secret().as_bytes(), attributes, 0o755)
    }
}

/// What is to be done with `run` where the runner configuration's `worker` section is `settings`.
///
/// # Errors
///
/// The worker cannot be started on this kind of host.
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

/// A path as it is meant: from where the runner is, wherever the worker starts (`worker.cwd`).
fn from_here(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Whether this kind of worker can be started on this kind of host at all.
///
/// # Errors
///
/// It cannot.
pub fn usable(settings: &WorkerSettings) -> Result<(), WorkerError> {
    match settings.implementation {
        Implementation::GenericWorker { path: None, .. } => Err(WorkerError::WindowsOnly),
        _ => Ok(()),
    }
}

/// The worker configuration with what the implementation sets: the whole that `check` shows and the cache keeps.
///
/// # Errors
///
/// The worker cannot be started on this kind of host.
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

/// What an implementation decides about its start; the rest of a [`LaunchSpec`] is the same for all.
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
    // Ours win: a worker that is told two identities serves neither.
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

/// The worker's location as a string that holds a JSON object.
fn location_text(run: &Run) -> String {
    let location: Map<_, _> =
        run.worker_location.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    Value::Object(location).to_string()
}

/// A worker's configuration file. JSON objects keep their keys sorted.
fn config_file(path: PathBuf, object: Map<String, Value>) -> ConfigFile {
    ConfigFile { path, content: format!("{:#}\n", Value::Object(object)).into() }
}

/// Sets keys of the worker configuration from the provider's metadata, where it has them.
fn set_from_metadata(config: &mut Merged, run: &Run, keys: &[(&str, &str)]) {
    for (key, metadata) in keys {
        if let Some(value) = run.provider_metadata.get(*metadata) {
            config.set(&[key], value.clone());
        } else {
            tracing::debug!(key, metadata, "not set: the provider's metadata does not have it");
        }
    }
}

/// Sets `certificate` where there is one. One of other credentials, from an older cache, would make these invalid.
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

/// What exits mean where nothing better is known.
/// The meaning of a failure that the worker's implementation gives none. A shell exits with 128+n when its child was
/// ended by the signal n.
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
