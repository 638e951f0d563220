//! Tells worker-manager of errors: what the worker reports, and what the runner has to say itself.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::protocol::message::ErrorReport;
use crate::redact::Secrets;
use crate::registration::Registrar;
use crate::taskcluster::{Effort, WorkerError};
use crate::worker::LaunchSpec;

/// How long one report is tried.
const TIME: Duration = Duration::from_secs(60);

/// Reports that are to be sent.
pub struct Queue {
    /// The worker's.
    pub workers: mpsc::Receiver<ErrorReport>,
    /// The runner's own: they come first.
    pub own: mpsc::Receiver<ErrorReport>,
}

impl Queue {
    /// The next one; `None`: nobody makes any more.
    async fn next(&mut self) -> Option<ErrorReport> {
        tokio::select! {
            biased;
            Some(report) = self.own.recv() => Some(report),
            Some(report) = self.workers.recv() => Some(report),
            else => None,
        }
    }
}

/// Sends reports, one after the other, until nobody makes any more. `launches` has the newest credentials.
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

/// It was an object when it came; nested too deeply to be read it is left out.
fn masked(extra: &str, secrets: &Secrets) -> Map<String, Value> {
    let mut extra: Map<String, Value> = serde_json::from_str(extra).unwrap_or_default();
    secrets.mask_object(&mut extra);
    extra
}
