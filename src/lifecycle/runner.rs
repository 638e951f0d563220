//! One runner process: catches signals, opens the status socket and the metrics, and runs the worker's [`Lifecycle`] to
//! its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::info;

use super::drained::Released;
use super::{Lifecycle, TaskGroup};
use crate::autologin::Logins;
use crate::clock::Clock;
use crate::config::{Implementation, RunnerConfig};
use crate::error_chain::ErrorChain;
use crate::event::{Outcome, StopRequest};
use crate::failure_log::{self, FailureLog};
use crate::hold::{Held, Hold};
use crate::host::blocking::Lanes;
use crate::host::helper::Helpers;
use crate::host::run_count::{self, RunCount};
use crate::host::service_manager::{Address, ServiceManager};
use crate::host::{drain_marker, private_file};
use crate::output::{Identity, Output};
use crate::provider::{self, MetadataOrigins};
use crate::redact::Secrets;
use crate::run_spec::Run;
use crate::startup::{Context, OnIdentified, PrepareError, Preparer};
use crate::stop::StopSignal;
use crate::taskcluster::Proxies;
use crate::telemetry::event_log::EventLog;
use crate::telemetry::logging::LogLevel;
use crate::telemetry::recent_warnings::RecentWarnings;
use crate::telemetry::service_manager::{self, StatusNotifier};
use crate::telemetry::status::{Counterparts, Resumes};
use crate::telemetry::status_board::StatusPublisher;
use crate::telemetry::{View, metrics, status};
use crate::watch::signals::Signals;
use crate::worker::dummy::Shown;
use crate::{watch, worker};

/// Capacity for resume requests.
const WAITING_RESUMES: usize = 4;

/// Time limit at the end for writes that are not on the disk yet.
const LAST_WRITE_TIME: Duration = Duration::from_secs(10);

/// The runner's environment, as parameters.
pub struct Host {
    pub clock: Arc<dyn Clock>,
    /// `$RUNTIME_DIRECTORY` or its default; `None`: there is none that this user may write.
    pub runtime_directory: Option<PathBuf>,
    /// `$STATE_DIRECTORY` or its default.
    pub state_directory: Option<PathBuf>,
    pub proxies: Proxies,
    /// The addresses of the clouds' metadata services.
    pub metadata: MetadataOrigins,
    /// The secrets to mask in the log and in reports.
    pub secrets: Secrets,
    /// The address of the service manager that started the runner.
    pub service_manager: Address,
    /// The lanes for calls that can hang.
    pub lanes: Lanes,
    /// The recent warnings and errors of the runner's own log.
    pub recent_warnings: RecentWarnings,
    /// The level of the runner's own log.
    pub log_level: LogLevel,
}

/// The reason why no worker was supervised.
#[derive(Debug, Error)]
pub enum RunError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The worker's implementation cannot use the run.
    #[error(transparent)]
    Worker(#[from] worker::WorkerError),
    /// The drain marker's path holds something that the runner did not create.
    #[error("cannot tell whether this host was drained: {0}, or remove it if nobody drained this host")]
    Mark(private_file::Error),
    #[error("cannot catch signals: {0}")]
    Signals(std::io::Error),
}

/// Runs the configured worker until its lifecycle ends. `signals` have been caught since the program's start.
pub async fn run(
    config: RunnerConfig,
    host: Host,
    signals: Signals,
    output: &Output,
) -> Result<Outcome, RunError> {
    let manager = ServiceManager::where_it_answers(&host.service_manager, &host.lanes.service_manager).await;
    let stop = StopSignal::default();
    let tasks = TaskGroup::new(stop.clone());
    let checks = tokio::sync::watch::Sender::new(());
    let checked = watch::deployment::is_possible(&config.provider).then(|| checks.clone());
    drop(tasks.spawn("signals", signals.forward(stop.clone(), checked, manager.clone())));

    worker::usable(&config.worker)?;
    let failures = failure_log(&config, &host).await;
    let (runs, hold) = of_state_directory(&config, &host);
    let publisher = publisher(&config, &host, runs.boot_id()).await.with_manager(manager.clone());
    drop(tasks.spawn("event log", note_holds(hold.observe(), publisher.events().clone())));
    let config = Arc::new(config);
    let on_identified = on_identified(&config, &publisher, output);
    let (recent_warnings, log) = (host.recent_warnings.clone(), host.log_level.clone());
    let context = context(host, &publisher, on_identified);
    if let Implementation::Dummy { show_secrets } = config.worker.implementation {
        return dummy(config, context, show_secrets, (&manager, output, &stop)).await;
    }
    let preparer = Preparer::new(config.clone(), context);
    if let Some(Ok(identified)) = provider::identify_offline(&config.provider) {
        (preparer.on_identified)(&identified.root_url, &identified.identity);
    }
    let (logins, helpers) = configured_logins(&config, &preparer.lanes, &stop).await;
    let (to_resume, asked) = mpsc::channel(WAITING_RESUMES);
    let resumes = Resumes::new(asked);
    let (provider, implementation) = (config.provider.provider_type(), config.worker.implementation.name());
    let view = View::new(&publisher, &recent_warnings, output.counters(), provider, implementation)
        .with_trouble(&preparer.trouble, &preparer.secrets)
        .with_hold(&hold);
    let (of_view, of_stop, of_hold) = (view.clone(), stop.clone(), hold.clone());
    let counterparts = Counterparts { view: of_view, stop: of_stop, hold: of_hold, resumes: to_resume, log };
    let metrics = metrics::open(config.metrics_listen, view, preparer.clock.clone()).await;
    let lane = preparer.lanes.status_socket.clone();
    let status =
        status::open(&config.status_socket, preparer.runtime_directory.as_deref(), counterparts, lane).await;
    let telling = tasks.spawn("service manager", telling(&preparer, &publisher, &hold).tell());
    let mut lifecycle = Lifecycle {
        config,
        preparer,
        failures,
        resumes,
        hold,
        runs,
        logins,
        helpers,
        output,
        publisher,
        stop,
        checks,
    };
    let result = whole_life(&mut lifecycle).await;
    // The notifier must not overwrite the final status.
    telling.abort();
    let outcome = concluded(&manager, &lifecycle.preparer.secrets, &result);
    write_last(&lifecycle, &outcome).await;
    close(status, metrics, outcome).await;
    result
}

/// Closes what observers are connected to.
async fn close(status: Option<status::Status>, metrics: Option<metrics::Metrics>, outcome: String) {
    if let Some(status) = status {
        status.close(outcome).await;
    }
    if let Some(metrics) = metrics {
        metrics.close().await;
    }
}

/// The publisher, with the event log where there is one.
async fn publisher(config: &RunnerConfig, host: &Host, boot_id: &str) -> StatusPublisher {
    let events = event_log(config, host, boot_id).await;
    StatusPublisher::new(host.clock.clone()).with_events(events)
}

/// A runner's life: a drained host waits, failed runs before make it pause, and then the worker is kept to its end.
async fn whole_life(lifecycle: &mut Lifecycle<'_>) -> Result<Outcome, RunError> {
    let manager = lifecycle.publisher.manager().clone();
    let mut released = manager.alive_while(lifecycle.hold(None)).await.map_err(RunError::Mark)?;
    if released == Released::Resumed {
        released = manager.alive_while(lifecycle.wait_for_paths()).await;
    }
    if released == Released::Resumed {
        released = manager.alive_while(lifecycle.pause_after_failures()).await;
    }
    match released {
        Released::Resumed => Ok(Box::pin(lifecycle.keep()).await?),
        Released::Ended => Ok(lifecycle.stop.current().map_or(Outcome::Stopped, StopRequest::outcome)),
    }
}

/// The record of failed runs. A worker that only shows what would be started leaves no trace, and a cloud's machine is
/// replaced.
async fn failure_log(config: &RunnerConfig, host: &Host) -> FailureLog {
    let lasts = !config.provider.is_dynamic()
        && !matches!(config.worker.implementation, Implementation::Dummy { .. });
    let (state, cache) = (host.state_directory.as_deref(), config.cache_over_restarts.as_deref());
    let path = failure_log::place(state, cache).filter(|_| lasts);
    FailureLog::open(path, host.lanes.failure_log.clone(), host.clock.clone()).await
}

/// Brings to the disk what is not there yet: the last event, credentials.
async fn write_last(lifecycle: &Lifecycle<'_>, outcome: &str) {
    let events = lifecycle.publisher.events();
    events.record("runner-end", json!({"outcome": outcome}));
    lifecycle.stop.unless_killed(events.flush()).await;
    let written = tokio::time::timeout(LAST_WRITE_TIME, lifecycle.preparer.cache_writer.flush());
    lifecycle.stop.unless_killed(written).await;
}

/// Returns the state directory's count of runs and its drain marker.
fn of_state_directory(config: &RunnerConfig, host: &Host) -> (RunCount, Hold) {
    let state = host.state_directory.as_deref();
    let marker = drain_marker::place(state, config.cache_over_restarts.as_deref());
    let runs = RunCount::new(state, host.lanes.run_count.clone(), &run_count::boot_id());
    (runs, Hold::new(marker, host.lanes.drain_marker.clone()))
}

/// The event log. A worker that only shows what would be started has none.
async fn event_log(config: &RunnerConfig, host: &Host, boot_id: &str) -> EventLog {
    let dummy = matches!(config.worker.implementation, Implementation::Dummy { .. });
    let Some(file) = config.events_file.clone().filter(|_| !dummy) else { return EventLog::default() };
    let secrets = (host.secrets.clone(), boot_id);
    EventLog::open(file, host.lanes.events.clone(), host.clock.clone(), secrets).await
}

/// Notes each hold, also one that a start finds, and each end of one.
async fn note_holds(mut level: tokio::sync::watch::Receiver<Held>, events: EventLog) {
    while level.changed().await.is_ok() {
        let now = level.borrow_and_update().clone();
        match now {
            Some(held) => {
                let since = held.since.map(|since| format!("{since:.0}"));
                events.record("hold", json!({"by": held.by, "since": since, "reason": held.reason}));
            }
            None => events.record("resume", json!({})),
        }
    }
}

/// Keeps the service manager informed.
fn telling(preparer: &Preparer, publisher: &StatusPublisher, hold: &Hold) -> StatusNotifier {
    StatusNotifier {
        manager: publisher.manager().clone(),
        board: publisher.observe(),
        trouble: preparer.trouble.observe(),
        hold: hold.observe(),
        clock: preparer.clock.clone(),
        secrets: preparer.secrets.clone(),
        worker: preparer.config.worker.implementation.name(),
    }
}

/// The surroundings of a start.
fn context(host: Host, publisher: &StatusPublisher, on_identified: OnIdentified) -> Context {
    host.proxies.secrets().for_each(|secret| host.secrets.add_for_good(&secret));
    Context {
        clock: host.clock,
        proxies: host.proxies,
        metadata: host.metadata,
        runtime_directory: host.runtime_directory,
        secrets: host.secrets,
        lanes: host.lanes,
        counters: publisher.counters().clone(),
        on_identified,
    }
}

/// Publishes the worker's identity: in the status, the metrics, the service manager's status line and each log record.
fn on_identified(config: &RunnerConfig, publisher: &StatusPublisher, output: &Output) -> OnIdentified {
    let (publisher, log) = (publisher.clone(), output.log_sink());
    let implementation = config.worker.implementation.name();
    Box::new(move |root_url, identity| {
        publisher.publish_identity(root_url, identity);
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
    // The steps that follow see a stop request, too.
    stop.unless_requested(logins.set_configured(&helpers)).await;
    (logins, helpers)
}

/// Reports the outcome to the service manager, and returns it as text.
fn concluded(manager: &ServiceManager, secrets: &Secrets, result: &Result<Outcome, RunError>) -> String {
    let outcome = result.as_ref().map_or_else(|cause| ErrorChain(cause).to_string(), Outcome::to_string);
    let outcome = secrets.mask(outcome);
    service_manager::conclude(
        manager,
        &outcome,
        result.as_ref().is_ok_and(|outcome| outcome.is_as_intended()),
    );
    outcome
}

/// Runs the dummy worker, which prints the run and ends.
async fn dummy(
    config: Arc<RunnerConfig>,
    mut context: Context,
    show_secrets: bool,
    (manager, output, stop): (&ServiceManager, &Output, &StopSignal),
) -> Result<Outcome, RunError> {
    let secrets = context.secrets.clone();
    // The log prints a run, but does not come from its worker.
    context.on_identified = Box::new(|_, _| {});
    if show_secrets {
        // In this case the log is meant to show secrets.
        context.secrets = Secrets::default();
    }
    let shown = show(Preparer::new(config, context), show_secrets, output, stop);
    let result = Box::pin(manager.alive_while(shown)).await;
    concluded(manager, &secrets, &result);
    result
}

/// Prepares the run and prints it.
async fn show(
    mut preparer: Preparer,
    secrets: bool,
    output: &Output,
    stop: &StopSignal,
) -> Result<Outcome, RunError> {
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
        // A log that has stalled permanently drops lines, and reports their number.
        let _ = tokio::time::timeout(LAST_LINES_TIME, room).await;
        info!("{line}");
    }
}

/// Time limit for writing the last lines to a stalled log.
pub const LAST_LINES_TIME: Duration = Duration::from_secs(5);
