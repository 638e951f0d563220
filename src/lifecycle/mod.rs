//! One worker's lifecycle, from one run to the next, in one process: prepare, supervise, conclude, repeat.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::autologin::Logins;
use crate::clock::wait_for;
use crate::config::{ProviderConfig, RunnerConfig};
use crate::error_chain::ErrorChain;
use crate::event::{Outcome, Phase, Reason, RunFailure, StateSummary, StopRequest};
use crate::failure_log::FailureLog;
use crate::hold::Hold;
use crate::host::helper::Helpers;
use crate::host::private_file;
use crate::host::run_count::RunCount;
use crate::lifecycle::drained::{Released, hold};
use crate::output::Output;
use crate::protocol::capabilities::{Capabilities, Capability};
use crate::provider::interruption;
use crate::quota::ReportLimit;
use crate::registration::Registrar;
use crate::registration::deregister::{Current, Deregistration};
use crate::run_spec::Run;
use crate::run_spec::cache::CachedRun;
use crate::startup::{FailureKind, PrepareError, Prepared, Preparer, Ready};
use crate::stop::StopSignal;
use crate::supervisor::{self, HookJob, Job, Strangers};
use crate::telemetry::status::Resumes;
use crate::telemetry::status_board::StatusPublisher;
use crate::watch::deployment::Deployed;
use crate::watch::reports;
use crate::worker::{self, Launch};

mod consequence;
mod deregister;
pub mod drained;
pub mod runner;
mod task_group;
mod unfit;
mod watchers;

pub use consequence::{Consequence, consequence};
use deregister::Left;
pub(crate) use task_group::TaskGroup;

/// Events that the tasks of one run may queue for the supervisor.
const WAITING_EVENTS: usize = 64;

/// Capacity for reports to worker-manager, for the worker's and for the runner's own; further ones are not sent.
const WAITING_REPORTS: usize = 2;

/// Time limit for each step of registering again for a new deployment, before the worker continues with the old run.
const REDEPLOY_TIME: Duration = Duration::from_secs(60);

/// Time limit of the file system of a path of `hooks.waitFor`.
const PATH_TIME: Duration = Duration::from_secs(10);

/// Interval at which a path of `hooks.waitFor` is looked for.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Time limit at the end for the answer to a request that cannot be repeated.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// Time limit for a run's remaining tasks: reports, an acknowledgement.
const LAST_TASK: Duration = Duration::from_secs(60);

pub struct Lifecycle<'a> {
    pub config: Arc<RunnerConfig>,
    /// Creates runs.
    pub preparer: Preparer,
    /// The record of failed runs.
    pub failures: FailureLog,
    /// The operators' requests to resume.
    pub resumes: Resumes,
    /// The hold of this host.
    pub hold: Hold,
    /// Counts the worker's runs in this boot.
    pub runs: RunCount,
    /// The host's automatic login.
    pub logins: Arc<Logins>,
    /// The registry of the runner's own short-lived children.
    pub helpers: Helpers,
    /// Receives the worker's output.
    pub output: &'a Output,
    pub publisher: StatusPublisher,
    /// The request to end the runner, and its strength.
    pub stop: StopSignal,
    /// Requests an immediate check for a new deployment.
    pub checks: channel::Sender<()>,
}

/// A run whose supervision has ended.
struct Supervised {
    outcome: Outcome,
    /// The result for the machine, if the worker has asked for its shutdown.
    left: Option<Left>,
    /// The run, with its latest credentials.
    current: Current,
    registrar: Option<Registrar>,
    /// The deregistration of this machine; `None`: it is not a cloud's.
    deregistration: Option<Deregistration>,
    /// Stops the watch for interruptions once the worker will not restart.
    gone: CancellationToken,
    /// The tasks that may still take some time, and end after a deregistration.
    last: Vec<JoinHandle<()>>,
    /// The run's other tasks, which end when this is dropped.
    tasks: TaskGroup,
}

impl Supervised {
    /// Schedules the last reports, unless the runner must end quickly.
    fn wait_for_reports(&mut self, reporting: Option<JoinHandle<()>>) {
        match (reporting, self.outcome) {
            (Some(_), Outcome::Stopped | Outcome::Held) | (None, _) => {}
            (Some(reporting), Outcome::Interrupted { .. }) => self.last.push(reporting),
            (Some(reporting), _) => self.last.insert(0, reporting),
        }
    }

    /// Ends the run's tasks. The acknowledgement to the cloud may end the machine.
    async fn finish(&mut self, stop: &StopSignal) {
        self.gone.cancel();
        for task in self.last.drain(..) {
            // A task that does not finish in time ends with the others.
            let _ = stop.bounded(tokio::time::timeout(LAST_TASK, task)).await;
        }
        self.tasks.end();
    }
}

impl Lifecycle<'_> {
    /// On a host that an operator holds: waits until it is resumed, or for the runner's end.
    ///
    /// # Errors
    ///
    /// The drain marker is not the runner's own.
    pub async fn hold(&self, reason: Option<Reason>) -> Result<Released, private_file::Error> {
        let held = tokio::select! {
            biased;
            _ = self.stop.requested() => return Ok(Released::Ended),
            held = self.hold.load() => held?,
        };
        if held.is_none() {
            return Ok(Released::Resumed);
        }
        self.publisher.publish(StateSummary { reason, ..Phase::Holding.into() });
        Ok(hold(&self.hold, &self.stop).await)
    }

    /// After failed runs, of this process or earlier ones: waits until the pause is over, somebody does not want to wait, or
    /// the runner is to end. A cloud's machine does not wait: it is replaced.
    pub async fn pause_after_failures(&self) -> Released {
        if self.config.provider.is_dynamic() {
            return Released::Resumed;
        }
        let Some(pause) = self.failures.pause(self.config.supervision.failure_backoff) else {
            return Released::Resumed;
        };
        let clock = &*self.preparer.clock;
        let until = clock.now().saturating_add(pause.left).unwrap_or(Timestamp::MAX);
        let reason = Some(Reason::FailedRuns { count: pause.failed_runs, last: pause.last, until });
        self.publisher.publish(StateSummary { reason, ..Phase::BackingOff.into() });
        warn!(
            failed_runs = pause.failed_runs, last = %pause.last, until = %format_args!("{until:.0}"),
            "earlier runs have failed: pausing before the next start (supervision.failureBackoff); `start-worker resume` starts the worker now"
        );
        tokio::select! {
            biased;
            _ = self.stop.requested() => Released::Ended,
            resume = self.resumes.next() => {
                // A client that has gone needs no answer.
                let _ = resume.answer.send(Ok(()));
                info!("resumed: the worker is started without waiting any longer");
                self.stop.unless_killed(self.failures.skip_pause()).await;
                Released::Resumed
            }
            () = wait_for(pause.left, clock) => Released::Resumed,
        }
    }

    /// Counts a start that failed, unless nothing but a change of the configuration helps, or another runner is at work.
    async fn count_failed_start(&self, cause: &PrepareError) {
        let counts = match cause.kind() {
            FailureKind::Configuration | FailureKind::Permissions => false,
            FailureKind::Unreachable | FailureKind::Refused | FailureKind::Other => {
                !matches!(cause, PrepareError::Locked(_))
            }
        };
        if counts && !self.config.provider.is_dynamic() {
            let failed_runs = self.failures.failed_runs().saturating_add(1);
            self.stop.bounded(self.failures.failed(failed_runs, RunFailure::Start)).await;
        }
    }

    /// Waits until all paths of `hooks.waitFor` exist: configuration management is still at work.
    pub async fn wait_for_paths(&self) -> Released {
        let lane = &self.preparer.lanes.hook_paths;
        let trouble = &self.preparer.trouble;
        let _over = trouble.until_dropped();
        for path in &self.config.hooks.wait_for {
            let mut told = false;
            loop {
                let at = path.clone();
                let found = tokio::select! {
                    biased;
                    _ = self.stop.requested() => return Released::Ended,
                    found = lane.at(path, PATH_TIME, move || at.try_exists()) => found,
                };
                let why = match found {
                    Ok(Ok(true)) => break,
                    Ok(Ok(false)) => "it does not exist yet".to_owned(),
                    Ok(Err(cause)) => cause.to_string(),
                    Err(cause) => cause.to_string(),
                };
                if !std::mem::replace(&mut told, true) {
                    info!(path = %path.display(), why, "waiting for a path of hooks.waitFor before anything is started");
                }
                trouble.tell(&format!("waiting for {} (hooks.waitFor): {why}", path.display()));
                self.stop.unless_requested(tokio::time::sleep(BETWEEN_LOOKS)).await;
            }
            if told {
                info!(path = %path.display(), "the path of hooks.waitFor exists");
            }
        }
        Released::Resumed
    }

    /// Keeps the worker until it needs no more keeping.
    ///
    /// # Errors
    ///
    /// There is no run, or no worker can be made of it.
    pub async fn keep(&mut self) -> Result<Outcome, PrepareError> {
        let strangers = Strangers::so_far();
        // While a worker is supervised, its supervisor sends the heartbeats.
        let manager = self.publisher.manager().clone();
        let mut prepared = match Box::pin(manager.alive_while(self.prepare())).await? {
            Ok(prepared) => prepared,
            Err(outcome) => return Ok(outcome),
        };
        loop {
            let mut run = Box::pin(self.supervise(prepared, &strangers)).await?;
            run.outcome = manager.alive_while(self.taken_away(&run)).await.unwrap_or(run.outcome);
            let registers = matches!(self.config.provider, ProviderConfig::Static(_));
            let concluded = consequence(run.outcome, self.config.provider.is_dynamic(), registers);
            if concluded == Consequence::Remove && run.left.is_none() {
                let reason = run.outcome.to_string();
                let leave = self.leave(run.deregistration.as_ref(), &reason, true);
                run.left = Some(manager.alive_while(leave).await);
            }
            manager.alive_while(run.finish(&self.stop)).await;
            let stopped = self.stop.current();
            if let (Consequence::RegisterAnew | Consequence::Redeploy { .. }, Some(request)) =
                (concluded, stopped)
            {
                return Ok(request.outcome());
            }
            prepared = match concluded {
                Consequence::End | Consequence::Remove if run.left == Some(Left::Behind) => {
                    return Ok(Outcome::LeftBehind);
                }
                Consequence::End | Consequence::Remove => return Ok(run.outcome),
                Consequence::RemoveLater if stopped.is_some() => {
                    info!(name: "deregistration-cancelled", "stopped: this machine is not removed");
                    return Ok(run.outcome);
                }
                Consequence::RemoveLater => {
                    self.leave_later(run.deregistration.as_ref(), &run.outcome.to_string()).await;
                    return Ok(run.outcome);
                }
                Consequence::RegisterAnew | Consequence::Hold => {
                    match Box::pin(manager.alive_while(self.again(concluded, &run))).await? {
                        Ok(prepared) => prepared,
                        Err(outcome) => return Ok(outcome),
                    }
                }
                Consequence::Redeploy { in_place } => {
                    match manager.alive_while(Box::pin(self.redeploy(run, in_place))).await {
                        Err(stopped) => return Ok(stopped.outcome()),
                        Ok(_) if !in_place => {
                            let boots = self.boot_for_the_deployment();
                            return Ok(manager.alive_while(boots).await);
                        }
                        Ok(prepared) => prepared,
                    }
                }
            };
        }
    }

    /// Another run of this host: at once, with new credentials, or when the host need not hold any longer.
    async fn again(
        &mut self,
        concluded: Consequence,
        run: &Supervised,
    ) -> Result<Result<Prepared, Outcome>, PrepareError> {
        if concluded != Consequence::Hold {
            info!(name: "credentials-expired", "the worker's credentials have run out: registering anew");
        } else if self.hold_unfit(run).await == Released::Ended {
            return Ok(Err(self.stop.current().map_or(Outcome::Unfit, StopRequest::outcome)));
        }
        Box::pin(self.prepare()).await
    }

    /// Prepares a run. The inner error is the outcome of a runner that ends without one.
    async fn prepare(&mut self) -> Result<Result<Prepared, Outcome>, PrepareError> {
        self.publisher.publish(Phase::Preparing.into());
        let in_flight = self.preparer.in_flight();
        let dynamic = self.config.provider.is_dynamic();
        let ready = {
            let mut preparing = std::pin::pin!(self.preparer.prepare());
            tokio::select! {
                biased;
                stopped = self.stop.requested() => {
                    if dynamic && in_flight.any() {
                        // The pending request may be the only registration that this machine has.
                        self.stop.unless_killed(tokio::time::timeout(LAST_ANSWER, preparing)).await;
                    }
                    return Ok(Err(stopped.outcome()));
                }
                ready = &mut preparing => ready,
            }
        };
        match ready {
            Ok(Ready::Run(prepared)) => Ok(Ok(*prepared)),
            Ok(Ready::Leaving(prepared)) => Ok(Err(self.leave_at_last(*prepared).await)),
            Err(cause) => {
                self.count_failed_start(&cause).await;
                self.start_failed(&cause).await;
                Err(cause)
            }
        }
    }

    /// Registers again first. If that succeeds, the new run replaces the old one; otherwise the old run continues. The
    /// error is a stop request that came first.
    async fn redeploy(&mut self, run: Supervised, in_place: bool) -> Result<Prepared, StopRequest> {
        let anew = tokio::select! {
            biased;
            stopped = self.stop.requested() => return Err(stopped),
            anew = self.preparer.prepare_anew(REDEPLOY_TIME) => anew,
        };
        Ok(anew.unwrap_or_else(|cause| {
            if in_place {
                warn!(name: "deployment-registration-failed", error = %ErrorChain(&cause), "cannot register for the new deployment: the worker goes on with the old one until the next poll");
            } else {
                warn!(name: "deployment-registration-failed", error = %ErrorChain(&cause), "cannot register for the new deployment: that is tried again after the boot");
            }
            let cached = run.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            Prepared { cached, registrar: run.registrar }
        }))
    }

    /// Supervises the worker of one run, together with the run's tasks.
    async fn supervise(&self, prepared: Prepared, strangers: &Strangers) -> Result<Supervised, PrepareError> {
        let Prepared { cached, registrar } = prepared;
        // A channel for this run only: a request of an earlier run must not reach the next one.
        let (sender, mut events) = mpsc::channel(WAITING_EVENTS);
        self.publisher.publish_run(&cached.run);
        let hooks = self.hook_job(&cached.run);
        let (identity, expires) = (cached.run.identity.clone(), cached.run.credentials.expires);
        let deployed = Deployed::of(&cached.run);
        let launch = worker::launch(&cached.run, &self.config.worker)?;
        let watcher = interruption::watcher(&self.config.provider, &self.preparer.metadata, &identity)?;
        let mut supervised = self.done(cached, registrar);
        let tasks = &supervised.tasks;
        let Launch::Start(spec) = launch else { return Ok(supervised) };
        let (launches, newest) = channel::channel(*spec);
        let (reports, told) = report_queue(self.preparer.limits.reports.clone());
        let reporting = supervised.registrar.clone().map(|registrar| {
            let secrets = self.preparer.secrets.clone();
            tasks.spawn("reports", reports::send(registrar, told, newest.clone(), secrets))
        });
        let (offered, logins) = self.offered(reporting.is_some()).await;
        let job = Job {
            launches: newest,
            supervision: self.config.supervision.clone(),
            host: self.config.host.clone(),
            helpers: self.helpers.clone(),
            offered,
            logins,
            cache_writer: self.preparer.cache_writer.clone(),
            dynamic: self.config.provider.is_dynamic(),
            leave: channel::Sender::new(false),
            reports: reporting.is_some().then_some(reports),
            secrets: self.preparer.secrets.clone(),
            failures: self.failures.clone(),
            resumes: self.resumes.clone(),
            hold: self.hold.clone(),
            hooks,
            publisher: self.publisher.clone(),
            strangers: strangers.clone(),
            stop: self.stop.clone(),
            lanes: self.preparer.lanes.clone(),
        };
        if let Some(registrar) = supervised.registrar.clone() {
            let deployment = self.deployment(registrar.clone(), deployed, launches.subscribe(), &sender);
            drop(tasks.spawn("deployment", deployment.watch()));
            let renewal = self.renewal(registrar, &supervised.current, launches, &sender);
            drop(tasks.spawn("credentials", renewal.keep()));
        } else if let Some(expires) = expires {
            self.watch_expiry(expires, tasks, &sender);
        }
        let interruptions =
            watcher.map(|watcher| self.interruptions(watcher, &supervised.gone, &sender).watch());
        supervised.last.extend(interruptions.map(|watch| tasks.spawn("interruption", watch)));
        let deregistration = supervised.deregistration.as_ref();
        let supervision = Box::pin(self.supervise_and_leave(job, deregistration, &mut events));
        (supervised.outcome, supervised.left) = supervision.await;
        supervised.wait_for_reports(reporting);
        self.last_answer().await;
        Ok(supervised)
    }

    /// The hooks around this run.
    fn hook_job(&self, run: &Run) -> HookJob {
        HookJob {
            hooks: self.config.hooks.clone(),
            runs: self.runs.clone(),
            trouble: self.preparer.trouble.clone(),
            root_url: run.root_url.clone(),
            identity: run.identity.clone(),
        }
    }

    /// A run that needs no supervision, because it is done.
    fn done(&self, cached: CachedRun, registrar: Option<Registrar>) -> Supervised {
        let current: Current = Arc::new(Mutex::new(cached));
        let dynamic = self.config.provider.is_dynamic();
        Supervised {
            outcome: Outcome::Done,
            left: None,
            deregistration: dynamic.then(|| self.deregistration(registrar.clone(), current.clone())),
            current,
            registrar,
            gone: CancellationToken::new(),
            last: Vec::new(),
            tasks: TaskGroup::new(self.stop.clone()),
        }
    }

    /// The capabilities that the runner offers to a worker, and the host's automatic login if there is a display
    /// manager whose file this process may write. `renewing`: the worker's credentials are renewed.
    async fn offered(&self, renewing: bool) -> (Capabilities, Option<Arc<Logins>>) {
        use Capability::{
            Autologin, ErrorReport, GracefulTermination, Log, NewCredentials, Reboot, Shutdown,
        };
        let possible = self.logins.can_be_set().await;
        let always = [ErrorReport, GracefulTermination, Log, Reboot, Shutdown];
        let sometimes = [renewing.then_some(NewCredentials), possible.then_some(Autologin)];
        let offered = always.into_iter().chain(sometimes.into_iter().flatten()).collect();
        (offered, possible.then(|| self.logins.clone()))
    }

    /// Waits for a pending request. On a cloud it may be a renewal, whose answer contains the secret for the next.
    async fn last_answer(&self) {
        let in_flight = self.preparer.in_flight();
        if self.config.provider.is_dynamic() && in_flight.any() {
            self.stop.unless_killed(tokio::time::timeout(LAST_ANSWER, in_flight.none())).await;
        }
    }
}

/// The queue for error reports from the supervisor to worker-manager.
fn report_queue(limit: ReportLimit) -> (supervisor::ReportSender, reports::Queue) {
    let ((of_worker, workers), (of_runner, own)) =
        (mpsc::channel(WAITING_REPORTS), mpsc::channel(WAITING_REPORTS));
    (supervisor::ReportSender { of_worker, of_runner, limit }, reports::Queue { workers, own })
}
