//! Reports errors to worker-manager: the worker's and the runner's own.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::protocol::message::ErrorReport;
use crate::redact::Secrets;
use crate::registration::Registrar;
use crate::taskcluster::{Effort, WorkerError};
use crate::worker::LaunchSpec;

/// Time limit of one report.
const TIME: Duration = Duration::from_secs(60);

/// Reports that wait to be sent.
pub struct Queue {
    /// The worker's.
    pub workers: mpsc::Receiver<ErrorReport>,
    /// The runner's own, which are sent first.
    pub own: mpsc::Receiver<ErrorReport>,
}

impl Queue {
    /// The next report; `None`: every sender is gone.
    async fn next(&mut self) -> Option<ErrorReport> {
        tokio::select! {
            biased;
            Some(report) = self.own.recv() => Some(report),
            Some(report) = self.workers.recv() => Some(report),
            else => None,
        }
    }
}

/// Sends reports, one after the other, until every sender is gone. `launches` contains the latest credentials.
pub async fn send(
    registrar: Registrar,
    mut reports: Queue,
    launches: watch::Receiver<LaunchSpec>,
    secrets: Secrets,
) {
    while let Some(report) = reports.next().await {
        let credentials = launches.borrow().credentials.clone();
        let error = WorkerError {
            kind: secrets.mask(report.kind),
            title: secrets.mask_cut_lines(report.title),
            description: secrets.mask_cut_lines(report.description),
            extra: masked(&report.extra, &secrets),
        };
        match registrar
            .client()
            .report_worker_error(&credentials, registrar.name(), &error, Effort::For(TIME))
            .await
        {
            Ok(()) => {
                info!(name: "error-reported", kind = error.kind, title = error.title, "reported to worker-manager");
            }
            Err(cause) => {
                warn!(name: "error-report-failed", error = %cause, "an error could not be reported to worker-manager");
            }
        }
    }
}

/// Masks the JSON text of an object. If it is nested too deeply to be parsed, it is dropped.
fn masked(extra: &str, secrets: &Secrets) -> Map<String, Value> {
    let mut extra: Map<String, Value> = serde_json::from_str(extra).unwrap_or_default();
    secrets.mask_object(&mut extra);
    extra
}
