//! A host that its worker found unfit for tasks (`supervision.onUnfit`): it is quarantined, or it holds.

use std::time::Duration;

use tracing::{error, info};

use super::drained::Released;
use super::{Lifecycle, Supervised};
use crate::config::OnUnfit;
use crate::error_chain::ErrorChain;
use crate::event::{Outcome, Reason};
use crate::host::drain_marker::HoldRecord;
use crate::registration::name_of;
use crate::taskcluster::{CallError, Effort};

/// Time limit of the call to the queue.
const TIME: Duration = Duration::from_secs(60);

/// The pause of a host that holds and has nowhere to note that.
const UNTIL_RESUMED: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Lifecycle<'_> {
    /// Quarantines the worker where that is configured, and waits for as long; otherwise, and where the queue refuses that,
    /// holds until an operator resumes. Returns when the worker is to start again, or the runner is to end.
    pub(super) async fn hold_unfit(&self, run: &Supervised) -> Released {
        let supervision = &self.config.supervision;
        if supervision.on_unfit == OnUnfit::Quarantine {
            let quarantined = tokio::select! {
                biased;
                _ = self.stop.requested() => return Released::Ended,
                quarantined = self.quarantine(run) => quarantined,
            };
            match quarantined {
                Ok(()) => {
                    self.failures.pause_for(supervision.quarantine_for).await;
                    return self.pause_after_failures().await;
                }
                Err(why) => error!(
                    error = why,
                    "cannot quarantine this worker: holding instead, until `start-worker resume`"
                ),
            }
        }
        let now = self.preparer.clock.now();
        let why = "the worker found this host unfit for tasks";
        let record = HoldRecord::new(Some("start-worker"), now, Some(why));
        if let Err(cause) = self.hold.set(record).await {
            error!(error = %cause, "this host holds only until start-worker ends: the marker cannot be written");
            self.failures.pause_for(UNTIL_RESUMED).await;
            return self.pause_after_failures().await;
        }
        let held = self.hold(Some(Reason::Over(Outcome::Unfit))).await;
        held.unwrap_or_else(|cause| {
            error!(error = %ErrorChain(&cause), "cannot hold: ending");
            Released::Ended
        })
    }

    /// Asks the queue to give this worker no tasks for `quarantineFor`. The error says what to do.
    async fn quarantine(&self, run: &Supervised) -> Result<(), String> {
        let current = run.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner).run.clone();
        let client = match &run.registrar {
            Some(registrar) => registrar.client().clone(),
            None => {
                self.preparer.client(&current.root_url).map_err(|cause| ErrorChain(&cause).to_string())?
            }
        };
        let time = self.config.supervision.quarantine_for;
        let until = self.preparer.clock.now().saturating_add(time).unwrap_or(jiff::Timestamp::MAX);
        let info = "start-worker: the worker found this host unfit for tasks (exit code 69)";
        let name = name_of(&current.identity);
        let credentials = &current.credentials;
        let asked = client.quarantine_worker(credentials, &name, (until, info), Effort::For(TIME)).await;
        asked.map_err(|cause| advice(&cause, &credentials.client_id, &name.worker_pool_id))?;
        info!(until = %format_args!("{until:.0}"), "quarantined: the queue gives this worker no tasks");
        Ok(())
    }
}

/// The refusal, and what to do about it.
fn advice(cause: &CallError, client_id: &str, pool: &str) -> String {
    match cause.missing_scopes() {
        // worker-manager names its clients so; their scopes are those of their pool's role.
        Some(scopes) if client_id.starts_with("worker/") => {
            format!("the role worker-pool:{pool} lacks the scope {scopes}; add it there")
        }
        Some(scopes) => format!("the client {client_id} lacks the scope {scopes}; add it there"),
        None if cause.status() == Some(404) => {
            "the queue does not know this worker yet, because it has never asked for a task".to_owned()
        }
        None => cause.to_string(),
    }
}
