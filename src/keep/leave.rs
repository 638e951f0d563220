//! How a machine leaves: after a start that failed, after its worker's end; at once, or when somebody had time to look.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Map;
use tracing::{error, info, warn};

use super::Keeping;
use crate::event::{Outcome, Phase, Reason, StateSummary};
use crate::host::power;
use crate::prepare::{FailureKind, PrepareError};
use crate::registration::Registrar;
use crate::registration::removal::{Current, Left, Removal, Whole};
use crate::run::cache::CachedRun;
use crate::taskcluster::{Effort, WorkerError};
use crate::worker;

/// How long a report of a failed start is tried.
const REPORT: Duration = Duration::from_secs(60);

impl Keeping<'_> {
    /// A cloud's machine that cannot start is of no use to anybody; but only where the start has come as far as to know
    /// whose machine it is, and where it is not the runner configuration that is wrong.
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
        error!(error = %cause, "the worker cannot start");
        let reason = Some(Reason::Over(Outcome::StartFailed));
        self.announcer.announce(StateSummary { reason, ..Phase::Ended.into() });
        let mut removal = None;
        if let Some((registrar, cached)) = self.preparer.registered() {
            tokio::select! {
                biased;
                _ = self.stop.requested() => return info!("stopped: this machine is not removed"),
                () = self.report(&registrar, &cached, cause) => {}
            }
            removal = Some(self.removal(Some(registrar), Arc::new(Mutex::new(cached))));
        }
        self.remove_later(removal.as_ref(), "the worker could not start").await;
    }

    /// Tells the worker pool's owners, as far as there are credentials to do so.
    async fn report(&self, registrar: &Registrar, cached: &CachedRun, cause: &PrepareError) {
        let report = WorkerError {
            kind: "worker-runner".to_owned(),
            title: format!("{} cannot be started", self.config.worker.implementation.name()),
            description: self.preparer.secrets.mask(cause.to_string()),
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
            Ok(()) => info!(title = report.title, "reported to worker-manager"),
            Err(cause) => warn!(error = %cause, "an error could not be reported to worker-manager"),
        }
    }

    pub(super) fn removal(&self, registrar: Option<Registrar>, current: Current) -> Removal {
        let settings = self.config.worker.clone();
        let whole: Whole = Arc::new(move |cached: &CachedRun| {
            // What could be made at the start can be made again.
            worker::final_config(&cached.run, &settings)
                .map(|whole| whole.object().clone())
                .unwrap_or_default()
        });
        Removal::new(registrar, current, whole, self.preparer.keeper.clone(), self.preparer.clock.clone())
    }

    /// The machine leaves worker-manager, or is shut down. A stop lets that go on for a moment.
    pub(super) async fn remove(&self, removal: Option<&Removal>, reason: &str) {
        let leave = async {
            let left = match removal {
                Some(removal) => removal.remove(reason).await,
                None => Left::Nothing,
            };
            if left == Left::Nothing {
                let _ =
                    power::run_host_command("shutdown", &self.config.host.shutdown_command, &self.helpers)
                        .await;
            }
        };
        if self.announcer.manager().alive_while(self.stop.bounded(leave)).await.is_none() {
            warn!("stopped while this machine was being removed: see that it goes away");
        }
    }

    /// The same, when a person has had the time to look. A stop ends the wait, and the machine stays.
    pub(super) async fn remove_later(&self, removal: Option<&Removal>, reason: &str) {
        let host = &self.config.host;
        if !host.shutdown_on_start_failure {
            warn!("this machine stays, for host.shutdownOnStartFailure is false");
            return;
        }
        let delay = host.start_failure_delay;
        if !delay.is_zero() {
            warn!(
                delay = %humantime::format_duration(delay),
                "this machine is removed after host.startFailureDelay; stop start-worker to keep it"
            );
        }
        let wait = self.announcer.manager().alive_while(tokio::time::sleep(delay));
        tokio::select! {
            biased;
            _ = self.stop.requested() => return info!("stopped: this machine is not removed"),
            () = wait => {}
        }
        self.remove(removal, reason).await;
    }
}
