//! start-worker: starts and supervises the worker of a Taskcluster worker machine.
//!
//! # Theory of operation
//!
//! `main` reads the arguments, the environment and the runner configuration ([`config`]), starts the output thread
//! ([`output`]) and calls [`run()`].
//!
//! 1. **Prepare** ([`mod@prepare`]): the provider ([`provider`]) says who the worker is, and the worker configuration is
//!    merged from its sources ([`run`](mod@run)). The result is a [`run::Run`]; the worker's implementation ([`worker`]) turns it
//!    into a [`worker::LaunchSpec`]: program, arguments, configuration file, the meaning of exits.
//! 2. **Supervise** ([`supervisor`]): one task owns the worker's process. Its loop only makes [`event::Event`]s; a pure
//!    state machine ([`supervisor::state`]) decides; the loop acts. Sibling tasks ([`watch`]) watch signals and
//!    credentials, and send events. The worker's output goes its own way, through the output thread, which hands
//!    protocol messages ([`protocol`]) to the supervisor.
//! 3. **Conclude**: the [`event::Outcome`] becomes the exit code, once the last lines are written.
//!
//! Everything but the output thread runs on one thread. Nothing that can block runs there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::config::RunnerConfig;
use crate::event::{Cause, Event, Outcome, Strength};
use crate::host::lock::{Lock, LockError};
use crate::output::Output;
use crate::run::Run;
use crate::supervisor::Job;
use crate::watch::signals::Signals;
use crate::worker::Launch;
use crate::worker::dummy::Shown;

pub mod chain;
pub mod check;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod event;
pub mod host;
pub mod observe;
pub mod output;
pub mod prepare;
pub mod protocol;
pub mod provider;
pub mod redact;
pub mod retry;
pub mod run;
pub mod supervisor;
pub mod taskcluster;
pub mod watch;
pub mod worker;

/// What siblings may send before they wait for the supervisor.
const WAITING_EVENTS: usize = 64;

/// The world outside, as arguments.
pub struct Host {
    /// Tells the wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// `$RUNTIME_DIRECTORY`, or where it is by default; `None`: there is none that this user may write.
    pub runtime_directory: Option<PathBuf>,
    /// `$STATE_DIRECTORY`, or where it is by default.
    pub state_directory: Option<PathBuf>,
    /// Where the clouds' metadata services are.
    pub metadata: provider::MetadataOrigins,
    /// The proxies that Taskcluster is called through.
    pub proxies: taskcluster::Proxies,
}

/// Why no worker was supervised.
#[derive(Debug, Error)]
pub enum RunError {
    /// The runner configuration cannot be used on this host.
    #[error(transparent)]
    Provider(#[from] provider::ProviderError),
    /// The worker's implementation cannot use it.
    #[error(transparent)]
    Worker(#[from] worker::WorkerError),
    /// Another runner runs this worker.
    #[error(transparent)]
    Locked(LockError),
    /// The credentials are of no use.
    #[error("provider.certificate: the credentials have expired at {0}; get new ones")]
    Expired(jiff::Timestamp),
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(std::io::Error),
}

/// Runs the configured worker until it needs no more keeping.
pub async fn run(config: RunnerConfig, host: Host, output: &Output) -> Result<Outcome, RunError> {
    let signals = Signals::catch().map_err(RunError::Signals)?;
    let (sender, mut events) = mpsc::channel(WAITING_EVENTS);
    let siblings = Siblings::new(sender.clone());
    siblings.spawn("signals", signals.forward(sender.clone()));

    worker::usable(&config.worker)?;
    let run = prepare::prepare(&config, &host.metadata).await?;
    let spec = match worker::launch(&run, &config.worker)? {
        Launch::Start(spec) => *spec,
        Launch::Show { secrets } => {
            show(&run, secrets, output).await;
            return Ok(Outcome::Done);
        }
    };
    tell_what_is_not_built(&config);
    let held_mark = host::held::place(host.state_directory.as_deref(), config.cache_over_restarts.as_deref());
    if let Some(outcome) = hold(held_mark.as_deref(), &mut events).await {
        return Ok(outcome);
    }
    let _lock = lock(&run, host.runtime_directory.as_deref())?;
    if let Some(expires) = run.credentials.expires {
        let now = host.clock.now();
        let schedule = watch::credentials::Schedule::new(now, expires).ok_or(RunError::Expired(expires))?;
        warn!(%expires, drain = %schedule.drain, stop = %schedule.stop, "the credentials expire, and this provider cannot renew them");
        siblings.spawn("credentials", watch::credentials::watch(schedule, host.clock.clone(), sender));
    }
    let job = Job { spec, supervision: config.supervision, host: config.host, offered: offered(), held_mark };
    let outcome = supervisor::supervise(job, output, events).await;
    Ok(outcome)
}

/// The dummy worker: its run, line by line, as fast as the log takes them.
async fn show(run: &Run, secrets: bool, output: &Output) {
    const A_MOMENT: Duration = Duration::from_millis(5);
    let shown = Shown { run, registration_secret: None, files: &[], secrets };
    let log = output.log_sink();
    for line in worker::dummy::show(&shown).lines() {
        let room = async {
            while !log.has_room() {
                tokio::time::sleep(A_MOMENT).await;
            }
        };
        // A log that has stalled for good loses lines, and says how many.
        let _ = tokio::time::timeout(LAST_LINES_TIME, room).await;
        info!("{line}");
    }
}

/// What the runner can do with a worker whose credentials cannot be renewed.
fn offered() -> protocol::capabilities::Capabilities {
    use protocol::capabilities::Capability::{ErrorReport, GracefulTermination, Log, Shutdown};
    [ErrorReport, GracefulTermination, Log, Shutdown].into_iter().collect()
}

/// The sibling tasks of one run: they end with it, and one that fails is an event, not silence.
struct Siblings {
    tasks: TaskTracker,
    stop: CancellationToken,
    events: mpsc::Sender<Event>,
}

impl Siblings {
    fn new(events: mpsc::Sender<Event>) -> Self {
        Self { tasks: TaskTracker::new(), stop: CancellationToken::new(), events }
    }

    fn spawn(&self, sibling: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, events) = (self.stop.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let mut task = tokio::spawn(task);
            let ended = tokio::select! {
                () = stop.cancelled() => return task.abort(),
                ended = &mut task => ended,
            };
            let Err(cause) = ended else { return };
            error!(sibling, error = %cause, "a part of start-worker has failed: the worker is asked to finish");
            // Without a supervisor there is no worker either.
            let _ = events.send(Event::Asked { strength: Strength::Drain, cause: Cause::RunnerFault }).await;
        });
    }
}

impl Drop for Siblings {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What the file asks for and this version does not do, said once at start.
fn tell_what_is_not_built(config: &RunnerConfig) {
    if config.get_secrets {
        warn!("getSecrets: secrets are not fetched by this version; set it to false to silence this line");
    }
    if let Some(path) = &config.cache_over_restarts {
        warn!(path = %path.display(), "cacheOverRestarts: nothing is cached by this version");
    }
    if let Some(address) = config.metrics_listen {
        warn!(%address, "metrics.listen: this version has no metrics");
    }
    if let Some(user) = &config.autologin.user {
        warn!(user, "autologin.user: this version sets no automatic login");
    }
    if let config::StatusSocket::At(path) = &config.status_socket {
        warn!(path = %path.display(), "status.socket: this version has no status socket");
    }
}

/// After an operator's drain that ended in a reboot: starts nothing until told to stop, or until the mark is gone.
async fn hold(mark: Option<&std::path::Path>, events: &mut mpsc::Receiver<Event>) -> Option<Outcome> {
    let mark = mark.filter(|mark| mark.exists())?;
    warn!(
        mark = %mark.display(),
        "holding: this host was drained before it rebooted; to let the worker start again, remove the mark and restart the service"
    );
    while let Some(event) = events.recv().await {
        if matches!(event, Event::Terminate | Event::Asked { .. }) {
            return Some(Outcome::Stopped);
        }
    }
    Some(Outcome::Stopped)
}

/// Two runners for one worker are one too many. Where no lock can be made, one goes on with a warning.
fn lock(run: &Run, folder: Option<&std::path::Path>) -> Result<Option<Lock>, RunError> {
    let identity = &run.identity;
    let name = format!("{} {} {}", identity.worker_pool_id, identity.worker_group, identity.worker_id);
    let Some(folder) = folder else {
        warn!(
            "no runtime directory: a second runner for this worker would not be noticed (set RUNTIME_DIRECTORY)"
        );
        return Ok(None);
    };
    match Lock::take(folder, &name) {
        Ok(lock) => Ok(Some(lock)),
        Err(cause @ LockError::Held { .. }) => Err(RunError::Locked(cause)),
        Err(cause @ LockError::Unavailable { .. }) => {
            warn!(error = %cause, "a second runner for this worker would not be noticed");
            Ok(None)
        }
    }
}

/// How long the last lines may take to be written, where the log is stalled.
pub const LAST_LINES_TIME: Duration = Duration::from_secs(5);
