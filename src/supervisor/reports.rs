//! Error reports for worker-manager: the worker's, forwarded, and the runner's own when it gives up.

use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::event::Exit;
use crate::protocol::message::{ErrorReport, LONGEST_DESCRIPTION, LONGEST_KIND, LONGEST_TITLE};
use crate::quota::ReportLimit;
use crate::redact::{MASK, Secrets};

/// The runner sends no report of its own within this time after one of the worker's.
const ALREADY_TOLD: Duration = Duration::from_secs(60);

/// The kind of the runner's own reports, the same as the Go start-worker's.
const KIND: &str = "worker-runner";

/// The number of bytes of a description and of an extra to log.
const LOGGED: usize = 4096;

/// The end of a truncated text.
const CUT: &str = "… (cut)";

/// Forwards reports to the task that sends them.
#[derive(Debug)]
pub(super) struct Reports {
    /// `None`: reports cannot be sent (this provider does not register).
    sender: Option<ReportSender>,
    secrets: Secrets,
    /// The time of the last report of the worker that was forwarded.
    last: Option<Instant>,
    /// True once the log says that reports cannot be sent.
    unsendable_told: bool,
}

/// The queue of reports for worker-manager.
#[derive(Debug, Clone)]
pub struct ReportSender {
    /// The worker's reports.
    pub of_worker: mpsc::Sender<ErrorReport>,
    /// The runner's own reports, with a separate capacity.
    pub of_runner: mpsc::Sender<ErrorReport>,
    /// The limit for the worker's reports.
    pub limit: ReportLimit,
}

/// The subject of a report of the runner's own.
#[derive(Debug)]
pub(super) struct GivenUp<'a> {
    pub(super) worker: &'static str,
    /// The last exit; `None`: the worker could not be started.
    pub(super) exit: Option<Exit>,
    /// The credentials ran out; this takes precedence over the exit status.
    pub(super) credentials_ran_out: bool,
    /// The number of consecutive crashes.
    pub(super) crashes: u32,
    /// The worker's last lines, if the operator allows them to be reported.
    pub(super) last_lines: &'a [String],
}

impl Reports {
    pub(super) fn new(sender: Option<ReportSender>, secrets: Secrets) -> Self {
        Self { sender, secrets, last: None, unsendable_told: false }
    }

    /// Counts reports of the worker that came too fast and were discarded.
    pub(super) fn dropped(&self, count: u64) {
        warn!(reports = count, "worker reports errors too fast: further ones were neither logged nor sent");
        if let Some(sender) = &self.sender {
            sender.limit.not_sent(count);
        }
    }

    /// Forwards a report of the worker.
    pub(super) fn forward(&mut self, report: ErrorReport) {
        let mut report = ErrorReport {
            kind: masked(report.kind, LONGEST_KIND, &self.secrets),
            title: masked(report.title, LONGEST_TITLE, &self.secrets),
            description: masked(report.description, LONGEST_DESCRIPTION, &self.secrets),
            extra: report.extra,
        };
        let (kind, title) = (&report.kind, &report.title);
        let description = cut(report.description.clone(), LOGGED);
        let extra = masked(report.extra.clone(), LOGGED, &self.secrets);
        error!(name: "worker-reported-error", kind, title, description, extra, "worker reports an error");
        let Some(sender) = &self.sender else {
            if !std::mem::replace(&mut self.unsendable_told, true) {
                warn!(
                    "error reports of this worker stay in this log: its provider does not register it, so worker-manager takes none"
                );
            }
            return;
        };
        let now = Instant::now();
        let Some(further) = sender.limit.take(now.into_std()) else {
            debug!("the worker's error report is not sent: at most one a minute and 20 an hour are");
            return;
        };
        if further > 0 {
            report.description = format!(
                "{further} further reports were not sent (start-worker sends one a minute and 20 an hour).\n\n{}",
                report.description
            );
        }
        self.last = Some(now);
        if sender.of_worker.try_send(report).is_err() {
            warn!("worker-manager has not taken the worker's last error report yet: one is not sent");
            sender.limit.not_sent(1);
        }
    }

    /// Sends a report of the runner's own, unless the worker has just reported an error itself. `once`: returns true for a
    /// cause that has not been reported within a day.
    pub(super) fn give_up(&self, about: &GivenUp<'_>, once: impl FnOnce(&str) -> bool) {
        if self.last.is_some_and(|last| last.elapsed() < ALREADY_TOLD) {
            debug!("not reported again: the worker has reported an error itself");
            return;
        }
        let what = match about.exit {
            _ if about.credentials_ran_out => "its credentials ran out and could not be renewed".to_owned(),
            Some(exit) => format!("{exit}"),
            None => "it could not be started".to_owned(),
        };
        if !once(&what) {
            info!(
                cause = what,
                "not reported to worker-manager again: the same cause is reported once a day"
            );
            return;
        }
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
        if sender.of_runner.try_send(report).is_err() {
            warn!("too many error reports at once: one is not sent to worker-manager");
        }
    }
}

/// Masks the secrets in a text and truncates it to `most` bytes, in this order: otherwise most of a secret would
/// remain.
pub(super) fn masked(text: String, most: usize, secrets: &Secrets) -> String {
    cut(secrets.mask(text), most)
}

/// Truncates a text, but neither inside a character nor inside a mask.
fn cut(mut text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let mut end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    for begun in (1..MASK.len()).rev() {
        let before = text.get(..end).unwrap_or_default();
        if MASK.get(..begun).is_some_and(|begun| before.ends_with(begun))
            && text.get(end - begun..).is_some_and(|rest| rest.starts_with(MASK))
        {
            end -= begun;
            break;
        }
    }
    text.truncate(end);
    text + CUT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_at_the_cut_is_masked_whole_and_no_mask_is_cut() {
        let secrets = Secrets::default();
        secrets.add("a-secret-of-some-length");
        for before in 0..60 {
            let text = format!("{}a-secret-of-some-length and more {}", "x".repeat(before), "y".repeat(60));
            let shown = masked(text, 50, &secrets);
            let rest = shown.strip_suffix(CUT).unwrap().trim_start_matches('x');
            let whole = format!("{MASK} and more {}", "y".repeat(60));
            assert!(whole.starts_with(rest) && (rest.is_empty() || rest.len() >= MASK.len()), "{shown}");
        }
        assert_eq!(masked("short".to_owned(), 5, &secrets), "short");
        assert_eq!(masked("ää".to_owned(), 3, &secrets), format!("ä{CUT}"));
    }
}
