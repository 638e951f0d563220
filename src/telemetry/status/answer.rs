//! The answer to `status`, in the form that `docs/status.md` describes. Keys are only ever added.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Serialize;

use crate::event::{Reason, signal_name};
use crate::host::drain_marker::HoldRecord;
use crate::redact::Secrets;
use crate::telemetry::View;
use crate::telemetry::recent_warnings::Warning;
use crate::telemetry::status_board::{DeploymentWatch, InterruptionWatch, PastExit, Runs, Tasks};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusAnswer {
    state: &'static str,
    since: String,
    reason: Option<String>,
    unhealthy: Option<String>,
    hold: Option<HoldAnswer>,
    worker_pid: Option<u32>,
    worker_stopped: Option<StoppedAnswer>,
    #[serde(rename = "workerPoolID")]
    worker_pool_id: Option<String>,
    worker_group: Option<String>,
    #[serde(rename = "workerID")]
    worker_id: Option<String>,
    #[serde(rename = "rootURL")]
    root_url: Option<String>,
    provider_type: &'static str,
    implementation: &'static str,
    runs: RunsAnswer,
    tasks: Option<TasksAnswer>,
    credentials_expire: Option<String>,
    credentials_renew: Option<String>,
    deployment: Option<DeploymentAnswer>,
    interruption: Option<InterruptionAnswer>,
    troubles: Vec<WarningAnswer>,
    log: LogAnswer,
    version: &'static str,
    pid: u32,
    started: String,
}

/// The hold of this host: no worker is started until `start-worker resume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct HoldAnswer {
    since: Option<String>,
    by: Option<String>,
    reason: Option<String>,
}

/// The signal that has stopped the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct StoppedAnswer {
    signal: Cow<'static, str>,
    since: String,
}

/// The worker's starts and ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct RunsAnswer {
    starts: u32,
    restarts: u32,
    crashes: u32,
    max_restarts: u32,
    restart_window_seconds: u64,
    exits: Vec<ExitAnswer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExitAnswer {
    at: String,
    status: String,
    meaning: &'static str,
    class: &'static str,
    ran_seconds: u64,
    cpu_seconds: Option<u64>,
    oom_kills: u64,
    dumped: bool,
}

/// The worker's tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct TasksAnswer {
    running: u32,
    since: Option<String>,
    finished: u64,
    lost: u64,
    last: Option<TaskAnswer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct TaskAnswer {
    at: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeploymentAnswer {
    sources: Vec<SourceAnswer>,
    last_check: Option<String>,
    result: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct SourceAnswer {
    source: &'static str,
    value: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct InterruptionAnswer {
    cloud: &'static str,
    last_answer: Option<String>,
    failure: Option<String>,
    notice: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct WarningAnswer {
    at: String,
    level: &'static str,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct LogAnswer {
    worker_lines: u64,
    worker_bytes: u64,
    last_output: Option<String>,
    dropped_lines: u64,
    lost_bytes: u64,
    warnings: u64,
    errors: u64,
}

impl StatusAnswer {
    pub(super) fn new(view: &View) -> Self {
        let unhealthy = view.health(Timestamp::now()).err();
        let board = view.board.borrow();
        let summary = &board.summary;
        let worker = board.worker.as_deref();
        let identity = worker.map(|worker| &worker.identity);
        let known = view.recent_warnings.borrow();
        let counts = view.output.now();
        Self {
            state: summary.phase.name(),
            since: time(board.since),
            reason: summary.reason.as_ref().map(Reason::to_string),
            unhealthy,
            hold: view.hold.borrow().as_deref().map(|held| HoldAnswer::new(held, &view.secrets)),
            worker_pid: summary.worker_pid,
            worker_stopped: summary.stopped_by.map(|signal| StoppedAnswer {
                signal: signal_name(signal),
                since: time(board.stopped_since.unwrap_or(board.since)),
            }),
            worker_pool_id: identity.map(|identity| identity.worker_pool_id.to_string()),
            worker_group: identity.map(|identity| identity.worker_group.clone()),
            worker_id: identity.map(|identity| identity.worker_id.clone()),
            root_url: worker.map(|worker| worker.root_url.clone()),
            provider_type: view.provider,
            implementation: view.implementation,
            runs: RunsAnswer::new(&board.runs),
            tasks: board.tasks.as_ref().map(TasksAnswer::new),
            credentials_expire: board.credentials_expire.map(time),
            credentials_renew: board.credentials_renew.map(time),
            deployment: board.deployment.as_ref().map(|watch| DeploymentAnswer::new(watch, &view.secrets)),
            interruption: board
                .interruption
                .as_ref()
                .map(|watch| InterruptionAnswer::new(watch, &view.secrets)),
            troubles: known.last.iter().map(|trouble| WarningAnswer::new(trouble, &view.secrets)).collect(),
            log: LogAnswer {
                worker_lines: counts.worker_lines,
                worker_bytes: counts.worker_bytes,
                last_output: counts.last_output.map(time),
                dropped_lines: counts.dropped_lines,
                lost_bytes: counts.lost_bytes,
                warnings: known.warnings,
                errors: known.errors,
            },
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started: time(board.started),
        }
    }
}

/// Formats a time with a precision of seconds.
fn time(time: Timestamp) -> String {
    format!("{time:.0}")
}

impl HoldAnswer {
    fn new(held: &HoldRecord, secrets: &Secrets) -> Self {
        let masked = |text: &String| secrets.mask(text);
        Self {
            since: held.since.map(time),
            by: held.by.as_ref().map(masked),
            reason: held.reason.as_ref().map(masked),
        }
    }
}

impl RunsAnswer {
    fn new(runs: &Runs) -> Self {
        Self {
            starts: runs.starts,
            restarts: runs.restarts,
            crashes: runs.crashes.count,
            max_restarts: runs.crashes.allowed,
            restart_window_seconds: runs.crashes.window.as_secs(),
            exits: runs.exits.iter().map(ExitAnswer::new).collect(),
        }
    }
}

impl TasksAnswer {
    fn new(tasks: &Tasks) -> Self {
        Self {
            running: tasks.running,
            since: tasks.since.map(time),
            finished: tasks.finished,
            lost: tasks.lost,
            last: tasks.last.map(|last| TaskAnswer { at: time(last.at), result: last.result.name() }),
        }
    }
}

impl ExitAnswer {
    fn new(past: &PastExit) -> Self {
        let PastExit { at, exit, ran, circumstances } = past;
        Self {
            at: time(*at),
            status: exit.status.to_string(),
            meaning: exit.meaning,
            class: exit.class.name(),
            ran_seconds: ran.as_secs(),
            cpu_seconds: circumstances.cpu.map(|cpu| cpu.as_secs()),
            oom_kills: circumstances.oom_kills,
            dumped: circumstances.dumped,
        }
    }
}

impl DeploymentAnswer {
    fn new(watch: &DeploymentWatch, secrets: &Secrets) -> Self {
        let value = |source| {
            let known = watch.values.iter().find(|(name, _)| *name == source);
            known.map(|(_, value)| secrets.mask(value))
        };
        let sources =
            watch.sources.iter().map(|source| SourceAnswer { source, value: value(*source) }).collect();
        Self {
            sources,
            last_check: watch.last_check.map(time),
            result: watch.result.as_ref().map(|result| secrets.mask(result)),
        }
    }
}

impl InterruptionAnswer {
    fn new(watch: &InterruptionWatch, secrets: &Secrets) -> Self {
        Self {
            cloud: watch.cloud,
            last_answer: watch.last_answer.map(time),
            failure: watch.failure.as_ref().map(|failure| secrets.mask(failure)),
            notice: watch.notice.as_ref().map(|notice| secrets.mask(notice)),
        }
    }
}

impl WarningAnswer {
    /// The text was masked when it was recorded, and is masked again, because further secrets may have become known
    /// since.
    fn new(warning: &Warning, secrets: &Secrets) -> Self {
        let level = if warning.is_error { "error" } else { "warning" };
        Self { at: time(warning.at), level, text: secrets.mask(&warning.text) }
    }
}
