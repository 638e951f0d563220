//! The supervisor's tasks outside its loop and at its end: host commands, the drain marker, the final report.

use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::reports::GivenUp;
use super::{LAST_LINES, Supervisor};
use crate::event::{Event, Outcome, RunFailure, Strength};
use crate::host::power::{Descent, TakeDown};
use crate::telemetry::recent_warnings::QUOTED;

/// Time limit for host commands, the drain marker and automatic logins after everything else has ended.
const LAST_THINGS: Duration = Duration::from_secs(160);

impl Supervisor<'_> {
    /// Creates the drain marker outside the loop, because that ends with an fsync. The runner's end waits for it.
    pub(super) fn set_drain_marker(&self) {
        let hold = self.job.hold.clone();
        self.at_the_end.spawn(async move { hold.over_reboot().await });
    }

    /// Beside the loop, like the marker.
    pub(super) fn count_failure(&self, failed_runs: u32, failure: RunFailure) {
        let failures = self.job.failures.clone();
        self.at_the_end.spawn(async move { failures.failed(failed_runs, failure).await });
    }

    /// Beside the loop, like the marker.
    pub(super) fn forget_failures(&self) {
        let failures = self.job.failures.clone();
        self.at_the_end.spawn(async move { failures.forget().await });
    }

    /// Removes the cached run, so that the worker registers again after the boot.
    pub(super) fn forget_run(&self) {
        let cache_writer = self.job.cache_writer.clone();
        self.at_the_end.spawn(async move {
            cache_writer.remove().await;
        });
    }

    /// Shuts down the host at the worker's request, in parallel with the worker and after its exit.
    pub(super) fn leave_host(&self) {
        let (logins_done, leave) = (self.logins.all_done(), self.job.leave.clone());
        self.at_the_end.spawn(async move {
            logins_done.await;
            leave.send_replace(true);
        });
    }

    /// Reboots the host, outside the loop.
    pub(super) fn reboot_host(&self) {
        let host = &self.job.host;
        self.take_down("reboot", host.reboot_command.clone(), host.force_reboot_command.clone());
    }

    /// Shuts the host down, beside the loop.
    pub(super) fn power_off_host(&self) {
        let host = &self.job.host;
        self.take_down("shutdown", host.shutdown_command.clone(), host.force_shutdown_command.clone());
    }

    fn take_down(&self, what: &'static str, command: Vec<String>, force: Option<Vec<String>>) {
        let (helpers, stop) = (self.descendants.helpers(), self.job.stop.clone());
        let needless = self.reboot_needless.clone();
        let logins_done = self.logins.all_done();
        let take_down = TakeDown { what, command, force, patience: self.job.supervision.reboot_timeout };
        let (after_run_over, reboots) = (self.hooks.after_run_over(), what == "reboot");
        let events = self.job.publisher.events().clone();
        self.at_the_end.spawn(async move {
            logins_done.await;
            after_run_over.await;
            events.record(if reboots { "reboot-requested" } else { "shutdown-requested" }, json!({}));
            let going_down = async {
                tokio::select! {
                    _ = stop.at_least(Strength::Stop) => {}
                    () = needless.cancelled() => {}
                }
            };
            match take_down.run(&helpers, going_down).await {
                Descent::StillUp(why) if what == "shutdown" => {
                    error!(error = %why, "the host must be shut down, and nothing has taken it down: shut it down by hand");
                }
                Descent::StillUp(why) => {
                    error!(name: "reboot-failed", error = %why, "the host must reboot, and nothing has taken it down: reboot it by hand");
                }
                Descent::GoingDown => {}
            }
        });
    }

    /// Waits for what must be over before the runner goes on.
    pub(super) async fn finish(&mut self, outcome: Outcome, events: &mut mpsc::Receiver<Event>) {
        if outcome != Outcome::NeedsReboot {
            self.reboot_needless.cancel();
        }
        self.concluded(outcome);
        self.logins.close();
        let manager = self.job.publisher.manager().clone();
        manager.alive_while(self.after_run(events)).await;
        self.at_the_end.close();
        // Their failures belong in the log.
        let last_things = tokio::time::timeout(LAST_THINGS, self.at_the_end.wait());
        let last_things = self.job.stop.bounded(last_things);
        if self.job.publisher.manager().alive_while(last_things).await.is_none() {
            warn!(
                "stopped while a host command, a removal or the mark of a drain was under way: not waited for any longer"
            );
        }
    }

    /// Tells the log and worker-manager of an end that somebody should look at.
    pub(super) fn concluded(&self, outcome: Outcome) {
        let reported = match outcome {
            Outcome::GaveUp | Outcome::Unfit | Outcome::StartFailed => true,
            // On other hosts the worker registers again.
            Outcome::CredentialsExpired => self.job.dynamic,
            _ => false,
        };
        if !reported {
            return;
        }
        let reported = usize::try_from(self.job.supervision.report_output_lines).unwrap_or(LAST_LINES);
        let about = GivenUp {
            worker: self.spec.implementation,
            exit: self.last_exit,
            credentials_ran_out: outcome == Outcome::CredentialsExpired,
            crashes: self.machine.crashes(),
            last_lines: self
                .last_lines
                .get(self.last_lines.len().saturating_sub(reported)..)
                .unwrap_or_default(),
        };
        let failures = self.job.failures.clone();
        // A cloud's machine leaves after its report.
        self.reports.give_up(&about, |cause| self.job.dynamic || failures.reports(cause));
        if !self.job.dynamic {
            self.at_the_end.spawn(async move { failures.write().await });
        }
        if matches!(outcome, Outcome::GaveUp | Outcome::Unfit) && !self.last_lines.is_empty() {
            let first = self.last_lines.len().saturating_sub(LAST_LINES);
            let lines = self.last_lines.get(first..).unwrap_or_default();
            // A single record below warning level, because the worker's lines are in the log already, and must not
            // count twice.
            info!(target: QUOTED, repeated = true, count = lines.len(), lines = lines.join("\n"), "the worker's last lines");
        }
    }
}
