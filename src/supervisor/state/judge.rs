//! Evaluates an exit: cause × exit determines the next step. The cause takes precedence.

use std::time::Duration;

use super::{Action, Ended, LINGER, Machine, Moment, Note, RebootPolicy, Request, State};
use crate::config::{AfterRun, OnUnfit, Restart};
use crate::event::{Cause, ExitClass, ExitStatus, Outcome, RunFailure};

/// A worker that asks for a reboot after a shorter run counts as crashed.
const SHORT_RUN: Duration = Duration::from_secs(30);

/// The number of restarts of an unfit worker on a cloud's machine, which is then replaced.
const UNFIT_RESTARTS: u32 = 2;

/// The outcome of a request while no worker runs.
pub(super) fn unstarted(cause: Cause) -> Outcome {
    match cause {
        // Only sent to a running worker.
        Cause::NewCredentials => Outcome::StartFailed,
        Cause::Limit => Outcome::Done,
        Cause::Operator => Outcome::Stopped,
        Cause::CredentialsExpiring => Outcome::CredentialsExpired,
        Cause::RunnerFault => Outcome::RunnerFailed,
        Cause::Redeploy => Outcome::Redeploy { in_place: true },
        Cause::Rebalance => Outcome::Interrupted { ends: true },
        Cause::Interruption { ends } => Outcome::Interrupted { ends },
    }
}

impl Machine {
    pub(super) fn judge(
        &mut self,
        now: Moment,
        ended: Ended,
        request: Option<Request>,
        in_place: bool,
        actions: &mut Vec<Action>,
    ) {
        if ended.exit.status == ExitStatus::Stuck {
            return self.stuck(ended, request, actions);
        }
        let reboots = ended.wants_reboot();
        // The host is already being removed, so other consequences come too late.
        if ended.leaving && request.is_none_or(|request| request.cause < Cause::Rebalance) {
            self.state = State::Ended(Outcome::Done);
            return;
        }
        if let Some(Request { cause: Cause::NewCredentials, .. }) = request {
            return self.drained_for_credentials(now, ended, in_place, actions);
        }
        if let Some(Request { cause: Cause::Limit, .. }) = request {
            // As if it had decided so itself, however it has ended.
            if reboots {
                self.reboot(now, ended, in_place, actions);
            } else {
                self.done(now, ended, in_place, actions);
            }
            return;
        }
        if let Some(Request { cause: Cause::Redeploy, .. }) = request
            && reboots
            && !self.policy.dynamic
        {
            return self.redeploy_over_a_boot(now, ended, in_place, actions);
        }
        if let Some(request) = request {
            let held = request.cause == Cause::Operator && request.hold && reboots;
            if held {
                actions.push(Action::MarkHeld);
            }
            self.state = State::Ended(match unstarted(request.cause) {
                _ if held => Outcome::Held,
                Outcome::Redeploy { .. } => Outcome::Redeploy { in_place },
                outcome => outcome,
            });
            return;
        }
        if ended.reboots {
            return self.reboot(now, ended, in_place, actions);
        }
        match ended.exit.class {
            ExitClass::Done | ExitClass::Idle => self.done(now, ended, in_place, actions),
            ExitClass::Interrupted => {
                self.state = State::Lingering { ended, in_place, until: now + LINGER };
            }
            ExitClass::Reboot => self.reboot(now, ended, in_place, actions),
            ExitClass::BadConfiguration => {
                actions.push(Action::Note(Note::BadConfiguration));
                self.count_failure(RunFailure::BadConfiguration, actions);
                self.end_run(now, Outcome::GaveUp, actions);
            }
            ExitClass::Unfit => self.unfit(now, ended, in_place, actions),
            ExitClass::Crash => self.crashed(now, ended, in_place, actions),
        }
    }

    /// Handles a worker that is still alive, so that no other can be started. Everything else is as if it had exited.
    fn stuck(&mut self, ended: Ended, request: Option<Request>, actions: &mut Vec<Action>) {
        let cause = request.map(|request| request.cause);
        let leaves = match cause {
            _ if ended.leaving => true,
            None | Some(Cause::Operator | Cause::RunnerFault | Cause::Interruption { ends: false }) => false,
            Some(
                Cause::Limit
                | Cause::NewCredentials
                | Cause::CredentialsExpiring
                | Cause::Redeploy
                | Cause::Rebalance
                | Cause::Interruption { ends: true },
            ) => self.policy.dynamic,
        };
        if cause == Some(Cause::Operator) && request.is_some_and(|request| request.hold) && ended.reboots {
            actions.push(Action::MarkHeld);
        }
        self.state = State::Ended(Outcome::Stuck { leaves });
    }

    /// Handles the exit of a worker that was drained because it does not accept new credentials: it is restarted with
    /// them, whatever its exit was. On a host that is removed with its worker, the run is done.
    fn drained_for_credentials(
        &mut self,
        now: Moment,
        ended: Ended,
        in_place: bool,
        actions: &mut Vec<Action>,
    ) {
        if ended.wants_reboot() {
            self.reboot(now, ended, in_place, actions);
        } else if self.policy.dynamic {
            self.state = State::Ended(Outcome::Done);
        } else if in_place {
            actions.push(Action::Note(Note::RestartWithCredentials));
            self.start(actions);
        } else {
            self.needs_boot(now, actions);
        }
    }

    /// Handles a worker that was drained for a new deployment and asks for a reboot: it registers again after the
    /// reboot. If the policy restarts it instead of a reboot, it does so at once.
    fn redeploy_over_a_boot(&mut self, now: Moment, ended: Ended, in_place: bool, actions: &mut Vec<Action>) {
        let restarts =
            matches!(self.policy.on_reboot, RebootPolicy::Restart | RebootPolicy::RestartIfPossible);
        if restarts && in_place && !ended.reboots {
            self.state = State::Ended(Outcome::Redeploy { in_place });
        } else {
            actions.push(Action::ForgetRun);
            self.reboot(now, ended, in_place, actions);
        }
    }

    fn done(&mut self, now: Moment, ended: Ended, in_place: bool, actions: &mut Vec<Action>) {
        if self.policy.restart != Restart::Always || self.policy.dynamic {
            return self.end_run(now, Outcome::Done, actions);
        }
        if !in_place {
            return self.needs_boot(now, actions);
        }
        if ended.ran > self.policy.restart_window {
            self.crashes = 0;
        }
        self.back_off(now, ended.ran < SHORT_RUN, 0, actions);
    }

    fn reboot(&mut self, now: Moment, ended: Ended, in_place: bool, actions: &mut Vec<Action>) {
        // A reboot requested by message is performed by the runner, whatever `onReboot` says.
        let policy = if ended.reboots { RebootPolicy::Reboot } else { self.policy.on_reboot };
        match policy {
            RebootPolicy::Restart | RebootPolicy::RestartIfPossible if in_place => {
                if ended.ran < SHORT_RUN {
                    return self.crashed(now, ended, in_place, actions);
                }
                actions.push(Action::Note(Note::RestartInsteadOfReboot));
                self.short_runs = 0;
                self.start(actions);
            }
            RebootPolicy::Exit
            | RebootPolicy::Restart
            | RebootPolicy::Wait
            | RebootPolicy::RestartIfPossible
                if self.policy.after_run != AfterRun::Exit =>
            {
                self.end_run(now, Outcome::NeedsReboot, actions);
            }
            RebootPolicy::Restart => {
                // After a restart it would only wait for a login that never happens.
                actions.push(Action::Note(Note::CannotRestartInPlace));
                self.state = State::Ended(Outcome::NeedsReboot);
            }
            RebootPolicy::Exit => self.state = State::Ended(Outcome::NeedsReboot),
            RebootPolicy::Reboot => {
                self.reboot_host(now, in_place, actions);
            }
            RebootPolicy::Wait | RebootPolicy::RestartIfPossible => self.await_reboot(now, in_place, actions),
        }
    }

    /// Lets the runner reboot the host. If a force command follows and fails, too, the worker is not restarted in
    /// place, because the host is defective.
    fn reboot_host(&mut self, now: Moment, in_place: bool, actions: &mut Vec<Action>) {
        actions.push(Action::RebootHost);
        let force_time = self.policy.force_reboot_time;
        self.await_reboot_for(
            now,
            self.policy.reboot_timeout + force_time,
            in_place && force_time.is_zero(),
            actions,
        );
    }

    /// The worker is not started again, and nobody has asked for its end: `afterRun`.
    fn end_run(&mut self, now: Moment, outcome: Outcome, actions: &mut Vec<Action>) {
        let (action, force_time) = match self.policy.after_run {
            AfterRun::Exit => {
                self.state = State::Ended(outcome);
                return;
            }
            AfterRun::Reboot => (Action::RebootHost, self.policy.force_reboot_time),
            AfterRun::PowerOff => (Action::PowerOffHost, self.policy.force_shutdown_time),
        };
        let powers_off = action == Action::PowerOffHost;
        let until = now + self.policy.reboot_timeout + force_time;
        actions.extend([Action::Report(outcome), Action::Note(Note::AfterRun { powers_off }), action]);
        self.state = State::AwaitingReboot { in_place: false, until, expired: false, powers_off };
    }

    fn await_reboot(&mut self, now: Moment, in_place: bool, actions: &mut Vec<Action>) {
        self.await_reboot_for(now, self.policy.reboot_timeout, in_place, actions);
    }

    fn await_reboot_for(
        &mut self,
        now: Moment,
        timeout: Duration,
        in_place: bool,
        actions: &mut Vec<Action>,
    ) {
        actions.push(Action::Note(Note::AwaitingReboot { timeout }));
        self.state =
            State::AwaitingReboot { in_place, until: now + timeout, expired: false, powers_off: false };
    }

    pub(super) fn reboot_did_not_come(
        &mut self,
        in_place: bool,
        powers_off: bool,
        actions: &mut Vec<Action>,
    ) {
        let waited = self.policy.reboot_timeout;
        actions.push(Action::Note(Note::RebootDidNotCome { waited, in_place, powers_off }));
        if in_place {
            self.start(actions);
        } else {
            self.state = State::Ended(Outcome::NeedsReboot);
        }
    }

    pub(super) fn crashed(&mut self, now: Moment, ended: Ended, in_place: bool, actions: &mut Vec<Action>) {
        if !in_place {
            self.count_failure(RunFailure::Crash, actions);
            return self.needs_boot(now, actions);
        }
        self.forget_old_crashes(ended);
        self.try_again(now, Outcome::GaveUp, actions);
    }

    fn forget_old_crashes(&mut self, ended: Ended) {
        if ended.ran > self.policy.restart_window {
            self.crashes = 0;
            self.short_runs = 0;
        }
    }

    /// The worker, or its host, is not fit for tasks: started again like a crash, but so rarely that it cannot burn through
    /// the queue's tasks. A cloud's machine is replaced after three starts.
    fn unfit(&mut self, now: Moment, ended: Ended, in_place: bool, actions: &mut Vec<Action>) {
        self.count_failure(RunFailure::Unfit, actions);
        match self.policy.on_unfit {
            OnUnfit::Restart => {}
            OnUnfit::Hold | OnUnfit::Quarantine if !self.policy.dynamic => {
                self.state = State::Ended(Outcome::Unfit);
                return;
            }
            OnUnfit::Exit | OnUnfit::Hold | OnUnfit::Quarantine => {
                return self.end_run(now, Outcome::GaveUp, actions);
            }
        }
        if !in_place {
            return self.needs_boot(now, actions);
        }
        self.forget_old_crashes(ended);
        let allowed = if self.policy.dynamic {
            self.allowed_restarts().min(UNFIT_RESTARTS)
        } else {
            self.allowed_restarts()
        };
        self.crashes = self.crashes.saturating_add(1);
        if self.crashes > allowed {
            return self.too_many_crashes(now, allowed, Outcome::GaveUp, actions);
        }
        let pause = self.policy.failure_backoff.pause(self.failed_runs);
        // The first time, what was wrong may have passed.
        if self.policy.dynamic || self.failed_runs <= 1 || pause.is_zero() {
            return self.back_off(now, true, self.crashes, actions);
        }
        actions.push(Action::Note(Note::FailurePause { wait: pause, failed_runs: self.failed_runs }));
        self.state = State::BackingOff { until: now + pause };
    }

    fn allowed_restarts(&self) -> u32 {
        match self.policy.restart {
            Restart::Never => 0,
            Restart::OnFailure | Restart::Always => self.policy.max_restarts,
        }
    }

    /// A cloud's machine is replaced after its failed runs: nothing counts them.
    pub(super) fn count_failure(&mut self, failure: RunFailure, actions: &mut Vec<Action>) {
        if !self.policy.dynamic {
            self.failed_runs = self.failed_runs.saturating_add(1);
            actions.push(Action::CountFailure { failed_runs: self.failed_runs, failure });
        }
    }

    pub(super) fn forget_failures(&mut self, actions: &mut Vec<Action>) {
        if self.failed_runs > 0 && !self.policy.dynamic {
            self.failed_runs = 0;
            actions.push(Action::ForgetFailures);
        }
    }

    /// Handles a crash, or a start that failed for a temporary reason: restarts after a pause, or ends with `or_else`
    /// if that happened too often.
    pub(super) fn try_again(&mut self, now: Moment, or_else: Outcome, actions: &mut Vec<Action>) {
        self.crashes = self.crashes.saturating_add(1);
        let allowed = self.allowed_restarts();
        if self.crashes > allowed {
            let failure = if or_else == Outcome::StartFailed { RunFailure::Start } else { RunFailure::Crash };
            self.count_failure(failure, actions);
            self.too_many_crashes(now, allowed, or_else, actions);
        } else {
            self.back_off(now, true, self.crashes, actions);
        }
    }

    fn too_many_crashes(&mut self, now: Moment, allowed: u32, or_else: Outcome, actions: &mut Vec<Action>) {
        let (crashes, window) = (self.crashes, self.policy.restart_window);
        actions.push(Action::Note(Note::TooManyCrashes { crashes, allowed, window }));
        if or_else == Outcome::StartFailed {
            self.state = State::Ended(or_else);
        } else {
            self.end_run(now, or_else, actions);
        }
    }

    /// Handles a worker that has exited and cannot be restarted without a reboot.
    fn needs_boot(&mut self, now: Moment, actions: &mut Vec<Action>) {
        actions.push(Action::Note(Note::CannotRestartInPlace));
        if self.policy.dynamic {
            self.state = State::Ended(Outcome::GaveUp);
        } else if self.policy.on_reboot == RebootPolicy::Reboot && self.policy.restart != Restart::Never {
            self.reboot_host(now, false, actions);
        } else {
            self.end_run(now, Outcome::NeedsReboot, actions);
        }
    }

    /// Waits before the next start: `backoff.initial`, doubled for each preceding short run, at most `backoff.max`.
    fn back_off(&mut self, now: Moment, short: bool, crashes: u32, actions: &mut Vec<Action>) {
        self.short_runs = if short { self.short_runs.saturating_add(1) } else { 1 };
        let doublings = self.short_runs.saturating_sub(1).min(30);
        let wait = self.policy.backoff_initial.saturating_mul(1 << doublings).min(self.policy.backoff_max);
        let allowed = self.policy.max_restarts;
        actions.push(Action::Note(Note::Restarting { wait, crashes, allowed }));
        if wait.is_zero() || self.held {
            self.start(actions);
        } else {
            self.state = State::BackingOff { until: now + wait };
        }
    }
}
