//! The supervisor's state in the form for observers.

use jiff::Timestamp;

use super::child::Child;
use super::state::{Note, State, Worker};
use super::{Supervisor, decision_log};
use crate::event::{Exit, Phase, Reason, RunFailure, StateSummary, Strength};
use crate::host::cgroup;
use crate::telemetry::status_board::{Circumstances, Crashes};

impl Supervisor<'_> {
    /// Publishes the current state to observers.
    pub(super) fn publish(&self) {
        let mut summary = summary(self.machine.state(), self.last_exit);
        if summary.phase == Phase::BackingOff && self.pause.is_some() {
            summary.reason = self.pause;
        }
        self.job.publisher.publish(summary);
        self.job.publisher.publish_credentials(self.spec.credentials.expires);
        let supervision = &self.job.supervision;
        self.job.publisher.publish_crashes(Crashes {
            count: self.machine.crashes(),
            allowed: supervision.max_restarts,
            window: supervision.restart_window,
        });
    }

    /// Tells observers the reason for a pause, and its end.
    pub(super) fn note_pause(&mut self, note: Note) {
        self.pause = match note {
            Note::FailurePause { wait, failed_runs } => Some(Reason::FailedRuns {
                count: failed_runs,
                last: RunFailure::Unfit,
                until: self.job.publisher.now().saturating_add(wait).unwrap_or(Timestamp::MAX),
            }),
            Note::Restarting { .. } => None,
            _ => return,
        };
        self.publish();
    }

    /// Logs a note, and publishes its numbers to observers.
    pub(super) fn note(&self, note: Note) {
        let circumstances = self.circumstances(matches!(note, Note::Exited { .. }));
        if let Note::Exited { exit, ran, .. } = note {
            self.job.publisher.publish_exit(exit, ran, circumstances);
        }
        decision_log::tell(note, circumstances);
    }

    /// The circumstances of the worker. `ended`: it has just exited.
    fn circumstances(&self, ended: bool) -> Circumstances {
        let pid = self.child.as_ref().map(Child::pid);
        if !ended {
            return Circumstances { pid, ..Circumstances::default() };
        }
        let kills = |before: u64| Some(cgroup::oom_kills()?.saturating_sub(before));
        Circumstances {
            pid,
            dumped: self.child.as_ref().is_some_and(Child::dumped),
            cpu: self.descendants.cpu_time(),
            oom_kills: self.oom_kills_before.and_then(kills).unwrap_or_default(),
        }
    }
}

/// Describes a state in an operator's words. `last_exit`: the worker's last exit, if there was one.
fn summary(state: &State, last_exit: Option<Exit>) -> StateSummary {
    let alone = |phase: Phase, reason| StateSummary { reason, ..phase.into() };
    let alive = |phase, worker: &Worker, reason| {
        let Worker { pid, stops, .. } = worker;
        StateSummary { phase, worker_pid: Some(*pid), reason, stopped_by: stops.signal }
    };
    let last = last_exit.map(Reason::Exited);
    match state {
        State::Preparing => alone(Phase::Starting, None),
        State::Spawning(request) => {
            alone(Phase::Starting, request.map(|request| Reason::Asked(request.cause)))
        }
        State::Running(worker) => alive(Phase::Running, worker, None),
        State::Stopping(worker, request, _) => {
            let phase = match request.strength {
                Strength::Drain => Phase::Draining,
                Strength::Stop => Phase::Stopping,
                Strength::Kill => Phase::Killing,
            };
            alive(phase, worker, Some(Reason::Asked(request.cause)))
        }
        State::Clearing(ended, ..) | State::Lingering { ended, .. } => {
            alone(Phase::Clearing, Some(Reason::Exited(ended.exit)))
        }
        State::BackingOff { .. } => alone(Phase::BackingOff, last),
        State::Holding => alone(Phase::Holding, last),
        State::AwaitingReboot { .. } => alone(Phase::AwaitingReboot, last),
        State::Ended(outcome) => alone(Phase::Ended, Some(Reason::Over(*outcome))),
    }
}
