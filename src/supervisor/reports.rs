//! What worker-manager is to be told of errors: the worker's own reports, handed on, and the runner's when it gives up.

use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::event::Exit;
use crate::protocol::message::ErrorReport;

/// What a worker has reported within this time, the runner does not report again.
const ALREADY_TOLD: Duration = Duration::from_secs(60);

/// The kind of the runner's own reports, as the Go start-worker's.
const KIND: &str = "worker-runner";

/// The way of reports to whoever sends them on.
#[derive(Debug)]
pub(super) struct Reports {
    /// `None`: nobody can be told (this provider does not register).
    sender: Option<mpsc::Sender<ErrorReport>>,
    /// When the worker last sent one.
    last: Option<Instant>,
}

/// What a report of the runner's own is about.
#[derive(Debug)]
pub(super) struct GivenUp<'a> {
    /// The worker's implementation.
    pub(super) worker: &'static str,
    /// Its last exit; `None`: it could not be started.
    pub(super) exit: Option<Exit>,
    /// That is why, whatever its exit.
    pub(super) credentials_ran_out: bool,
    /// Crashes in a row.
    pub(super) crashes: u32,
    /// Its last lines, where the operator lets them be reported.
    pub(super) last_lines: &'a [String],
}

impl Reports {
    pub(super) fn new(sender: Option<mpsc::Sender<ErrorReport>>) -> Self {
        Self { sender, last: None }
    }

    /// The worker's own.
    pub(super) fn forward(&mut self, report: ErrorReport) {
        let (kind, title, description) = (&report.kind, &report.title, &report.description);
        error!(kind, title, description, extra = report.extra, "worker reports an error");
        self.last = Some(Instant::now());
        self.send(report);
    }

    /// The runner's own, unless the worker has just told the same.
    pub(super) fn give_up(&self, about: &GivenUp<'_>) {
        if self.last.is_some_and(|last| last.elapsed() < ALREADY_TOLD) {
            debug!("not reported again: the worker has reported an error itself");
            return;
        }
        let what = match about.exit {
            _ if about.credentials_ran_out => "its credentials ran out and could not be renewed".to_owned(),
            Some(exit) => format!("{exit}"),
            None => "it could not be started".to_owned(),
        };
        let mut description = format!(
            "start-worker has given up on {}: {what}. Crashes in a row: {}. Its own log has the worker's last lines.",
            about.worker, about.crashes
        );
        if !about.last_lines.is_empty() {
            description.push_str("\n\nThe worker's last lines:\n");
            description.push_str(&about.last_lines.join("\n"));
        }
        self.send(ErrorReport {
            kind: KIND.to_owned(),
            title: format!("{} does not run: {what}", about.worker),
            description,
            extra: json!({"crashes": about.crashes}).to_string(),
        });
    }

    fn send(&self, report: ErrorReport) {
        let Some(sender) = &self.sender else { return };
        if sender.try_send(report).is_err() {
            warn!("too many error reports at once: one is not sent to worker-manager");
        }
    }
}
