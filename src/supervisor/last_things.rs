//! What the supervisor does beside its loop and at its end: host commands, the mark of a drain, the last words.

use tracing::info;

use super::reports::GivenUp;
use super::{LAST_LINES, Supervisor};
use crate::event::Outcome;
use crate::host::{held, power};
use crate::registration::removal::Left;
use crate::troubles::QUOTED;

impl Supervisor<'_> {
    /// Beside the loop, for it ends with an fsync; waited for at the end.
    pub(super) fn mark_held(&self) {
        let place = self.job.held_mark.clone();
        self.at_the_end.spawn_blocking(move || held::mark(place.as_deref()));
    }

    /// What comes after the boot registers anew.
    pub(super) fn forget_run(&self) {
        let keeper = self.job.keeper.clone();
        self.at_the_end.spawn(async move {
            keeper.remove().await;
        });
    }

    /// The worker wants its host to go away: a cloud's machine is removed, or else shut down; another is shut down.
    pub(super) fn leave_host(&self) {
        let Some(removal) = self.job.removal.clone() else {
            return self.run_host_command("shutdown", &self.job.host.shutdown_command);
        };
        let helpers = self.descendants.helpers();
        let command = self.job.host.shutdown_command.clone();
        self.at_the_end.spawn(async move {
            if removal.remove("the worker asked for its host to be shut down").await == Left::Nothing {
                let _ = power::run_host_command("shutdown", &command, &helpers).await;
            }
        });
    }

    /// Runs beside the loop; its end is told to the log alone.
    pub(super) fn run_host_command(&self, what: &'static str, command: &[String]) {
        let (helpers, command) = (self.descendants.helpers(), command.to_vec());
        let logins_done = self.logins.all_done();
        self.at_the_end.spawn(async move {
            logins_done.await;
            let _ = power::run_host_command(what, &command, &helpers).await;
        });
    }

    pub(super) fn concluded(&self, outcome: Outcome) {
        let reported = match outcome {
            Outcome::GaveUp | Outcome::StartFailed => true,
            // Elsewhere the worker registers anew.
            Outcome::CredentialsExpired => self.job.removal.is_some(),
            _ => false,
        };
        if !reported {
            return;
        }
        let reported = usize::try_from(self.job.supervision.report_output_lines).unwrap_or(LAST_LINES);
        self.reports.give_up(&GivenUp {
            worker: self.spec.implementation,
            exit: self.last_exit,
            credentials_ran_out: outcome == Outcome::CredentialsExpired,
            crashes: self.machine.crashes(),
            last_lines: self
                .last_lines
                .get(self.last_lines.len().saturating_sub(reported)..)
                .unwrap_or_default(),
        });
        if outcome == Outcome::GaveUp && !self.last_lines.is_empty() {
            let first = self.last_lines.len().saturating_sub(LAST_LINES);
            let lines = self.last_lines.get(first..).unwrap_or_default();
            // One record, and no error: what the worker wrote is in the log already, and must not count twice.
            info!(target: QUOTED, repeated = true, count = lines.len(), lines = lines.join("\n"), "the worker's last lines");
        }
    }
}
