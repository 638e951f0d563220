//! What the supervisor does beside its loop and at its end: host commands, the mark of a drain, the last words.

use tracing::{error, info};

use super::reports::GivenUp;
use super::{LAST_LINES, Supervisor};
use crate::event::Outcome;
use crate::host::{held, power};

impl Supervisor<'_> {
    /// Beside the loop, for it ends with an fsync; waited for at the end.
    pub(super) fn mark_held(&self) {
        let place = self.job.held_mark.clone();
        self.at_the_end.spawn_blocking(move || held::mark(place.as_deref()));
    }

    /// Runs beside the loop; its end is told to the log alone.
    pub(super) fn run_host_command(&self, what: &'static str, command: &[String]) {
        info!(what, command = %command.join(" "), "running the host command");
        let failed = move |cause| error!(what, error = %cause, "the host command failed");
        match power::start(command) {
            Ok(running) => {
                let helper = self.descendants.helpers().add(running.pid());
                self.at_the_end.spawn(async move {
                    running.end().await.unwrap_or_else(failed);
                    drop(helper);
                });
            }
            Err(cause) => failed(cause),
        }
    }

    pub(super) fn concluded(&self, outcome: Outcome) {
        if !matches!(outcome, Outcome::GaveUp | Outcome::StartFailed) {
            return;
        }
        let reported = usize::try_from(self.job.supervision.report_output_lines).unwrap_or(LAST_LINES);
        self.reports.give_up(&GivenUp {
            worker: self.spec.implementation,
            exit: self.last_exit,
            crashes: self.machine.crashes(),
            last_lines: self
                .last_lines
                .get(self.last_lines.len().saturating_sub(reported)..)
                .unwrap_or_default(),
        });
        if outcome == Outcome::GaveUp && !self.last_lines.is_empty() {
            let last = self.last_lines.len().min(LAST_LINES);
            for line in self.last_lines.iter().skip(self.last_lines.len() - last) {
                error!(line, "the worker's last lines");
            }
        }
    }
}
