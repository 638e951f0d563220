//! start-worker: starts and supervises the worker of a Taskcluster worker machine.
//!
//! # Theory of operation
//!
//! `main` reads the arguments, the environment and the runner configuration ([`config`]), starts the output thread
//! ([`output`]) and calls [`run()`].
//!
//! Before anything else the host's automatic login ([`mod@autologin`]) is set, where the configuration names a user.
//!
//! 1. **Prepare** ([`mod@prepare`]): the provider ([`provider`]) says who the worker is; it is registered
//!    ([`registration`], [`taskcluster`]), and the worker configuration is merged from its sources
//!    ([`run`](mod@run)). The result is a [`run::Run`], which is cached; the worker's implementation ([`worker`])
//!    turns it into a [`worker::LaunchSpec`]: program, arguments, configuration file, the meaning of exits.
//! 2. **Supervise** ([`supervisor`]): one task owns the worker's process. Its loop only makes [`event::Event`]s; a
//!    pure state machine ([`supervisor::state`]) decides; the loop acts. Sibling tasks ([`watch`]) watch signals,
//!    credentials, deployments and interruptions, and send events. The worker's output goes its own way, through
//!    the output thread, which hands protocol messages ([`protocol`]) to the supervisor.
//! 3. **Conclude** ([`keep`]): the [`event::Outcome`] has consequences: the machine leaves worker-manager, or the
//!    worker registers anew and all begins again; else it becomes the exit code, once the last lines are written.
//!
//! All along [`standing`] has where the runner stands, for whoever asks at the status socket ([`observe::status`]).
//!
//! Everything but the output thread runs on the runtime's one thread. Calls that can hang are made on three others, and
//! the main thread executes workers ([`host::blocking`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tracing::info;

use crate::autologin::Logins;
use crate::chain::Chain;
use crate::clock::Clock;
use crate::config::{Implementation, RunnerConfig};
use crate::event::{Outcome, StopRequest};
use crate::hold::Released;
use crate::host::blocking::Lanes;
use crate::host::helper::Helpers;
use crate::host::service_manager::ServiceManager;
use crate::keep::{Keeping, Siblings};
use crate::observe::systemd::{self, Telling};
use crate::observe::{View, metrics, status};
use crate::output::{Identity, Output};
use crate::prepare::{OnIdentified, PrepareError, Preparer};
use crate::run::Run;
use crate::standing::Announcer;
use crate::stop::StopSignal;
use crate::watch::signals::Signals;
use crate::worker::dummy::Shown;

pub mod autologin;
pub mod chain;
pub mod check;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod event;
pub mod hold;
pub mod host;
pub mod keep;
pub mod observe;
pub mod online;
pub mod output;
pub mod prepare;
pub mod protocol;
pub mod provider;
pub mod pulse;
pub mod quota;
pub mod redact;
pub mod registration;
pub mod retry;
pub mod run;
pub mod standing;
pub mod stop;
pub mod supervisor;
pub mod tally;
pub mod taskcluster;
pub mod trouble;
pub mod troubles;
pub mod watch;
pub mod worker;

/// Requests to resume that wait for the first of them.
const WAITING_RESUMES: usize = 4;

/// How long what is not on the disk yet is waited for at the end.
const LAST_WRITE_TIME: Duration = Duration::from_secs(10);

/// The world outside, as arguments.
pub struct Host {
    /// Tells the wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// `$RUNTIME_DIRECTORY`, or where it is by default; `None`: there is none that this user may write.
    pub runtime_directory: Option<PathBuf>,
    /// `$STATE_DIRECTORY`, or where it is by default.
    pub state_directory: Option<PathBuf>,
    /// The way to Taskcluster.
    pub proxies: taskcluster::Proxies,
    /// Where the clouds' metadata services are.
    pub metadata: provider::MetadataOrigins,
    /// What must not be logged or reported.
    pub secrets: redact::Secrets,
    /// Who started the runner, and wants to know how it goes.
    pub service_manager: host::service_manager::Address,
    /// The lanes for calls that can hang.
    pub lanes: Lanes,
    /// What the log has noted of troubles.
    pub troubles: troubles::Troubles,
}

/// Why no worker was supervised.
#[derive(Debug, Error)]
pub enum RunError {
    /// There is no run.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The worker's implementation cannot use it.
    #[error(transparent)]
    Worker(#[from] worker::WorkerError),
    /// What is in the place of the drain's mark was made by somebody else.
    #[error("cannot tell whether this host was drained: {0}, or remove it if nobody drained this host")]
    Mark(host::private_file::Error),
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(std::io::Error),
}

/// Runs the configured worker until it needs no more keeping. `signals` have been caught since the program's start.
pub async fn run(
    config: RunnerConfig,
    host: Host,
    signals: Signals,
    output: &Output,
) -> Result<Outcome, RunError> {
    let manager = ServiceManager::where_it_answers(&host.service_manager, &host.lanes.service_manager).await;
    let stop = StopSignal::default();
    let siblings = Siblings::new(stop.clone());
    let checks = tokio::sync::watch::Sender::new(());
    let checked = watch::deployment::is_possible(&config.provider).then(|| checks.clone());
    drop(siblings.spawn("signals", signals.forward(stop.clone(), checked, manager.clone())));

    worker::usable(&config.worker)?;
    let held_mark = host::held::place(host.state_directory.as_deref(), config.cache_over_restarts.as_deref());
    let announcer = Announcer::new(host.clock.clone()).with_manager(manager.clone());
    let config = Arc::new(config);
    let mut preparer = Preparer::new(config.clone(), host.clock);
    host.proxies.secrets().for_each(|secret| host.secrets.add_for_good(&secret));
    preparer.proxies = host.proxies;
    preparer.metadata = host.metadata;
    preparer.runtime_directory = host.runtime_directory;
    preparer.secrets = host.secrets;
    preparer.lanes = host.lanes;
    preparer.tally = announcer.tally().clone();
    if let Implementation::Dummy { show_secrets } = config.worker.implementation {
        let secrets = preparer.secrets.clone();
        let shown = manager.alive_while(show(preparer, show_secrets, output, &stop));
        let result = Box::pin(shown).await;
        concluded(&manager, &secrets, &result);
        return result;
    }
    preparer.on_identified = on_identified(&config, &announcer, output);
    if let Some(Ok(identified)) = provider::identify_offline(&config.provider) {
        (preparer.on_identified)(&identified.root_url, &identified.identity);
    }
    let (logins, helpers) = configured_logins(&config, &preparer.lanes, &stop).await;
    let (resumes, to_resume) = mpsc::channel(WAITING_RESUMES);
    let (provider, implementation) = (config.provider.provider_type(), config.worker.implementation.name());
    let view = View::new(&announcer, &host.troubles, output.counters(), provider, implementation)
        .with_trouble(&preparer.trouble, &preparer.secrets);
    let counterparts = status::Counterparts { view: view.clone(), stop: stop.clone(), resumes };
    let metrics = metrics::open(config.metrics_listen, view, preparer.clock.clone()).await;
    let lane = preparer.lanes.status_socket.clone();
    let status =
        status::open(&config.status_socket, preparer.runtime_directory.as_deref(), counterparts, lane).await;
    let telling = siblings.spawn("service manager", telling(&preparer, &announcer).tell());
    let mut keeping =
        Keeping { config, preparer, held_mark, logins, helpers, output, announcer, stop, checks };
    let result = match manager.alive_while(keeping.hold(to_resume)).await {
        Ok(Released::Resumed) => Box::pin(keeping.keep()).await.map_err(RunError::from),
        Ok(Released::Ended) => Ok(keeping.stop.current().map_or(Outcome::Stopped, StopRequest::outcome)),
        Err(cause) => Err(RunError::Mark(cause)),
    };
    // Its words are not to come after the last ones.
    telling.abort();
    let outcome = concluded(&manager, &keeping.preparer.secrets, &result);
    // Credentials that are not on the disk yet.
    let written = tokio::time::timeout(LAST_WRITE_TIME, keeping.preparer.keeper.flush());
    keeping.stop.unless_killed(written).await;
    if let Some(status) = status {
        status.close(outcome).await;
    }
    if let Some(metrics) = metrics {
        metrics.close().await;
    }
    result
}

/// Keeps the service manager informed.
fn telling(preparer: &Preparer, announcer: &Announcer) -> Telling {
    Telling {
        manager: announcer.manager().clone(),
        standing: announcer.observe(),
        trouble: preparer.trouble.observe(),
        clock: preparer.clock.clone(),
        secrets: preparer.secrets.clone(),
        worker: preparer.config.worker.implementation.name(),
    }
}

/// Publishes the worker's identity: in the status, the metrics, the service manager's status line and each log record.
fn on_identified(config: &RunnerConfig, announcer: &Announcer, output: &Output) -> OnIdentified {
    let (announcer, log) = (announcer.clone(), output.log_sink());
    let implementation = config.worker.implementation.name();
    Box::new(move |root_url, identity| {
        announcer.announce_identity(root_url, identity);
        log.identify(Identity::new(implementation, identity));
    })
}

/// The host's automatic login, set to the configured user, and the registry of the runner's own children.
async fn configured_logins(
    config: &RunnerConfig,
    lanes: &Lanes,
    stop: &StopSignal,
) -> (Arc<Logins>, Helpers) {
    let logins = Arc::new(Logins::new(&config.autologin).with_lanes(lanes.clone()));
    let helpers = Helpers::default();
    // What follows sees a request, too.
    stop.unless_requested(logins.set_configured(&helpers)).await;
    (logins, helpers)
}

/// Tells the service manager how it ended, and says it in words.
fn concluded(
    manager: &ServiceManager,
    secrets: &redact::Secrets,
    result: &Result<Outcome, RunError>,
) -> String {
    let outcome = result.as_ref().map_or_else(|cause| Chain(cause).to_string(), Outcome::to_string);
    let outcome = secrets.mask(outcome);
    systemd::conclude(manager, &outcome, result.as_ref().is_ok_and(|outcome| outcome.is_as_intended()));
    outcome
}

/// The dummy worker: its run, line by line, as fast as the log takes them.
async fn show(
    mut preparer: Preparer,
    secrets: bool,
    output: &Output,
    stop: &StopSignal,
) -> Result<Outcome, RunError> {
    if secrets {
        // The log is to show them, for once.
        preparer.secrets = redact::Secrets::default();
    }
    let run = tokio::select! {
        biased;
        stopped = stop.requested() => return Ok(stopped.outcome()),
        run = preparer.look() => run?,
    };
    show_run(&run, secrets, output).await;
    Ok(Outcome::Done)
}

async fn show_run(run: &Run, secrets: bool, output: &Output) {
    const A_MOMENT: Duration = Duration::from_millis(5);
    let shown =
        Shown { run, registration_secret: run.registration_secret.as_ref(), files: &run.files, secrets };
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

/// How long the last lines may take to be written, where the log is stalled.
pub const LAST_LINES_TIME: Duration = Duration::from_secs(5);
