//! The removal of a machine, after a failed start or after its worker's end: at once, or after a delay for
//! investigation.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Map;
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::{Lifecycle, Supervised};
use crate::config::OnReboot;
use crate::error_chain::ErrorChain;
use crate::event::{Event, Outcome, Phase, Reason, StateSummary, Step, StopRequest, Strength};
use crate::host::power::{self, Descent, StillUp, TakeDown};
use crate::provider::interruption;
use crate::registration::Registrar;
use crate::registration::deregister::{Current, Deregistered, Deregistration, Whole};
use crate::run_spec::cache::CachedRun;
use crate::startup::{FailureKind, PrepareError, Prepared};
use crate::supervisor::{self, Job};
use crate::taskcluster::{Effort, WorkerError};
use crate::worker;

/// Time limit for reporting a failed start.
const REPORT: Duration = Duration::from_secs(60);

/// The result for a machine that has to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// worker-manager removes the machine.
    Deregistered,
    /// The machine is shutting down.
    GoingDown,
    /// The machine is still running.
    Behind,
}

impl Lifecycle<'_> {
    /// Removes a cloud's machine that cannot start, because it is useless. Only applies if the start has identified the
    /// machine, and if the fault is not in the runner configuration.
    pub(super) async fn start_failed(&mut self, cause: &PrepareError) {
        let about_the_machine = match cause.kind() {
            FailureKind::Configuration | FailureKind::Permissions => false,
            FailureKind::Unreachable | FailureKind::Refused | FailureKind::Other => {
                !matches!(cause, PrepareError::Locked(_))
            }
        };
        if !about_the_machine || !self.config.provider.is_dynamic() || !self.preparer.identified() {
            return;
        }
        error!(name: "start-failed", error = %ErrorChain(cause), "the worker cannot start");
        let reason = Some(Reason::Over(Outcome::StartFailed));
        self.publisher.publish(StateSummary { reason, ..Phase::Ended.into() });
        let mut deregistration = None;
        let title = format!("{} cannot be started", self.config.worker.implementation.name());
        if let Some((registrar, cached)) = self.preparer.registered() {
            tokio::select! {
                biased;
                _ = self.stop.requested() => return info!(name: "deregistration-cancelled", "stopped: this machine is not removed"),
                () = self.report(&registrar, &cached, &title, ErrorChain(cause).to_string()) => {}
            }
            deregistration = Some(self.deregistration(Some(registrar), Arc::new(Mutex::new(cached))));
        }
        self.leave_later(deregistration.as_ref(), "the worker could not start").await;
    }

    /// Reports an error to the worker pool's owners, if there are credentials for that.
    async fn report(&self, registrar: &Registrar, cached: &CachedRun, title: &str, description: String) {
        let report = WorkerError {
            kind: "worker-runner".to_owned(),
            title: title.to_owned(),
            description: self.preparer.secrets.mask(description),
            extra: Map::new(),
        };
        let credentials = &cached.run.credentials;
        let told = registrar.client().report_worker_error(
            credentials,
            registrar.name(),
            &report,
            Effort::For(REPORT),
        );
        match told.await {
            Ok(()) => info!(name: "error-reported", title = report.title, "reported to worker-manager"),
            Err(cause) => {
                warn!(name: "error-report-failed", error = %cause, "an error could not be reported to worker-manager");
            }
        }
    }

    pub(super) fn deregistration(&self, registrar: Option<Registrar>, current: Current) -> Deregistration {
        let settings = self.config.worker.clone();
        let whole: Whole = Arc::new(move |cached: &CachedRun| {
            // The configuration could be made at the start, so it can be made again.
            worker::final_config(&cached.run, &settings)
                .map(|whole| whole.object().clone())
                .unwrap_or_default()
        });
        Deregistration::new(
            registrar,
            current,
            whole,
            self.preparer.cache_writer.clone(),
            self.preparer.clock.clone(),
        )
    }

    /// Removes this machine: marks it in the cache, deregisters it, and, if worker-manager does not remove it, shuts it
    /// down. `alone`: no worker is supervised meanwhile, so that the steps are published to observers.
    pub(super) async fn leave(
        &self,
        deregistration: Option<&Deregistration>,
        reason: &str,
        alone: bool,
    ) -> Left {
        self.publish_step(Step::Deregistering, alone && deregistration.is_some());
        if let Some(deregistration) = deregistration {
            match self.stop.bounded(deregistration.deregister(reason)).await {
                Some(Deregistered::Confirmed) => {
                    self.publish_step(Step::Deregistered, alone);
                    return Left::Deregistered;
                }
                Some(Deregistered::Unknown | Deregistered::Failed) => {}
                None => {
                    warn!(name: "deregistration-interrupted", "stopped while this machine was being removed: the next start goes on with that");
                    return Left::Behind;
                }
            }
        }
        self.shut_down(deregistration, alone).await
    }

    /// Resumes the removal where an earlier start of this machine stopped. Returns the runner's outcome.
    pub(super) async fn leave_at_last(&self, prepared: Prepared) -> Outcome {
        let Prepared { cached, registrar } = prepared;
        let Some(leaving) = cached.leaving.clone() else { return Outcome::Removed };
        if cached.has_left() || !self.config.provider.is_dynamic() {
            warn!(name: "deregistered-earlier",
                at = %leaving.at, reason = leaving.reason,
                "this worker was removed from worker-manager: it is not started again on this machine"
            );
            return Outcome::Removed;
        }
        warn!(name: "deregistration-resumed",
            so_far = cached.how_far_it_has_left(),
            "this machine must go, and is still here: no worker is started, it is deregistered and shut down"
        );
        let deregistration = self.deregistration(registrar, Arc::new(Mutex::new(cached)));
        self.publish_step(Step::Deregistering, true);
        if self.stop.bounded(deregistration.deregister(&leaving.reason)).await.is_none() {
            warn!(name: "deregistration-interrupted", "stopped while this machine was being removed: the next start goes on with that");
            return Outcome::LeftBehind;
        }
        // Also if worker-manager has confirmed the removal, because it should have removed the machine by now.
        match self.shut_down(Some(&deregistration), true).await {
            Left::Deregistered | Left::GoingDown => Outcome::Removed,
            Left::Behind => Outcome::LeftBehind,
        }
    }

    async fn shut_down(&self, deregistration: Option<&Deregistration>, alone: bool) -> Left {
        self.publish_step(Step::ShuttingDown, alone);
        if let Some(deregistration) = deregistration {
            // If the disk does not answer, the mark must not keep the host up.
            self.stop.bounded(deregistration.shutdown_requested()).await;
        }
        let host = &self.config.host;
        let take_down = TakeDown {
            what: "shutdown",
            command: host.shutdown_command.clone(),
            force: host.force_shutdown_command.clone(),
            patience: self.config.supervision.reboot_timeout,
        };
        let going_down = self.stop.at_least(Strength::Stop);
        match self.stop.bounded(take_down.run(&self.helpers, going_down)).await {
            Some(Descent::GoingDown) => Left::GoingDown,
            Some(Descent::StillUp(why)) => {
                error!(name: "shutdown-failed", error = %why, "this machine must go, and nothing has taken it down: trying again at the next start; shut it down by hand");
                self.report_left_behind(deregistration, &why).await;
                Left::Behind
            }
            None => {
                warn!(name: "shutdown-interrupted", "stopped while the host was being shut down: the next start goes on with that");
                Left::Behind
            }
        }
    }

    /// Reports to the worker pool's owners that the machine is still running, if there are credentials for that.
    async fn report_left_behind(&self, deregistration: Option<&Deregistration>, why: &StillUp) {
        let Some((registrar, cached)) = deregistration.and_then(Deregistration::registrar) else { return };
        let now = self.preparer.clock.now();
        if cached.run.credentials.expires.is_some_and(|expires| expires <= now) {
            return;
        }
        let description = format!("{}: {why}", cached.how_far_it_has_left());
        self.stop
            .bounded(self.report(registrar, &cached, "this machine must go, and is still up", description))
            .await;
    }

    fn publish_step(&self, step: Step, alone: bool) {
        match step {
            Step::Deregistering => {}
            Step::Deregistered => self.publisher.events().record("removed", json!({})),
            Step::ShuttingDown => self.publisher.events().record("shutdown-requested", json!({})),
        }
        if alone {
            let reason = Some(Reason::Leaving(step));
            self.publisher.publish(StateSummary { reason, ..Phase::Ended.into() });
        }
    }

    /// Removes this machine after a delay for investigation. A stop ends the delay, and the machine stays.
    pub(super) async fn leave_later(&self, deregistration: Option<&Deregistration>, reason: &str) -> Left {
        let host = &self.config.host;
        if !host.shutdown_on_start_failure {
            warn!(name: "deregistration-skipped", "this machine stays, for host.shutdownOnStartFailure is false");
            return Left::Behind;
        }
        let delay = host.start_failure_delay;
        if !delay.is_zero() {
            warn!(name: "deregistration-delayed",
                delay = %humantime::format_duration(delay),
                "this machine is removed after host.startFailureDelay; stop start-worker to keep it"
            );
        }
        let wait = self.publisher.manager().alive_while(tokio::time::sleep(delay));
        tokio::select! {
            biased;
            _ = self.stop.requested() => {
                info!(name: "deregistration-cancelled", "stopped: this machine is not removed");
                return Left::Behind;
            }
            () = wait => {}
        }
        self.publisher.manager().alive_while(self.leave(deregistration, reason, true)).await
    }

    /// Supervises the worker. If the worker asks for the shutdown of its host, the removal runs in parallel, and
    /// continues after the worker's end.
    pub(super) async fn supervise_and_leave(
        &self,
        job: Job,
        deregistration: Option<&Deregistration>,
        events: &mut mpsc::Receiver<Event>,
    ) -> (Outcome, Option<Left>) {
        let leave = job.leave.clone();
        let mut supervising = std::pin::pin!(supervisor::supervise(job, self.output, events));
        let mut leaving = std::pin::pin!(async {
            // `leave` keeps the channel open.
            let _ = leave.subscribe().wait_for(|asked| *asked).await;
            self.leave(deregistration, "the worker asked for its host to be shut down", false).await
        });
        tokio::select! {
            biased;
            outcome = &mut supervising => {
                let asked = *leave.borrow();
                let left = asked.then_some(leaving);
                match left {
                    Some(leaving) => (outcome, Some(self.publisher.manager().alive_while(leaving).await)),
                    None => (outcome, None),
                }
            }
            left = &mut leaving => (supervising.await, Some(left)),
        }
    }

    /// The outcome of a stop on a cloud's machine whose system is going down: the cloud may be taking it away, and the
    /// signal may arrive before the notice. `None`: the outcome is unchanged.
    pub(super) async fn taken_away(&self, run: &Supervised) -> Option<Outcome> {
        if run.outcome != Outcome::Stopped || !self.config.provider.is_dynamic() {
            return None;
        }
        let identity = {
            let current = run.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            current.run.identity.clone()
        };
        let ask = async {
            power::is_going_down(&self.helpers).await
                && interruption::is_taken_away(&self.config.provider, &self.preparer.metadata, &identity)
                    .await
        };
        self.stop.bounded(ask).await.unwrap_or(false).then(|| {
            warn!(name: "interruption-shutdown", "the system goes down because the cloud takes this machine away: it is deregistered");
            Outcome::Interrupted { ends: true }
        })
    }

    /// Handles a new run that is cached, but with which the worker cannot be started before a reboot.
    pub(super) async fn boot_for_the_deployment(&self) -> Outcome {
        error!(name: "worker-needs-reboot",
            "the worker cannot be started again without a reboot (worker.restartInPlace says otherwise where that is wrong)"
        );
        if self.config.supervision.on_reboot != OnReboot::Reboot {
            return Outcome::NeedsReboot;
        }
        let take_down = TakeDown {
            what: "reboot",
            command: self.config.host.reboot_command.clone(),
            force: self.config.host.force_reboot_command.clone(),
            patience: self.config.supervision.reboot_timeout,
        };
        self.publisher.events().record("reboot-requested", json!({}));
        let going_down = self.stop.at_least(Strength::Stop);
        match self.stop.bounded(take_down.run(&self.helpers, going_down)).await {
            Some(Descent::StillUp(why)) => {
                error!(name: "reboot-failed", error = %why, "the host must reboot, and nothing has taken it down: reboot it by hand");
                return Outcome::NeedsReboot;
            }
            Some(Descent::GoingDown) => {}
            None => warn!(name: "reboot-interrupted", "stopped while the host was being rebooted"),
        }
        self.stop.current().map_or(Outcome::Stopped, StopRequest::outcome)
    }
}
