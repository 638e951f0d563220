//! The stop ladder: the steps with which a worker is asked, and finally forced, to end.
//!
//! ```text
//! drain: AwaitingHello ─hello─▶ Told ─drainTimeout, or no task for drainIdleTimeout─▶ becomes a stop
//!              └─no hello, no capability─▶ Unasked ─drainTimeout─▶ becomes a stop
//! stop:  AwaitingHello ─hello─▶ Told ─stopTimeout─▶ Terminated ─killTimeout─▶ Killed
//!              └─5 s without hello, no capability─▶ Terminated ─stopTimeout─▶ Killed
//! kill:  Killed ─killTimeout─▶ Killed again ─killTimeout─▶ given up (Clearing)
//! ```
//!
//! A worker that is given up is stuck in the kernel (state D): SIGKILL takes effect when its system call returns, which
//! may be never. The supervision ends without it.
//!
//! On a machine that will be taken away at a known time, each step is taken early enough for SIGKILL to be sent before
//! that time, and a stuck worker is given up while there is time to deregister.
//!
//! A drain never sends a signal: generic-worker interprets SIGTERM as "abort the tasks". If SIGTERM replaces the
//! message, it has the message's time limit.

use std::time::Duration;

use super::{
    Action, Clearing, Ended, Hello, KILL_AWAITS_SPAWN, Limit, Machine, Moment, Note, Policy, Request,
    STOP_AWAITS_SPAWN, State, Worker, judge,
};
use crate::event::{Cause, Exit, Outcome, Strength};

/// Time limit for a stop to wait for the worker's hello.
const STOP_AWAITS_HELLO: Duration = Duration::from_secs(5);

/// Minimum time for SIGKILL to take effect.
const DYING: Duration = Duration::from_secs(1);

/// The last step of a request to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ladder {
    /// No message can be sent before the worker's hello, which is awaited until this time.
    AwaitingHello(Moment),
    /// A drain of a worker that cannot receive messages: it may exit by itself until this time.
    Unasked(Moment),
    /// graceful-termination was sent.
    Told { at: Moment, until: Moment },
    /// SIGTERM was sent.
    Terminated { at: Moment, until: Moment },
    /// SIGKILL was sent.
    Killed {
        at: Moment,
        until: Moment,
        /// True if SIGKILL was sent before: the worker is given up next.
        again: bool,
    },
}

impl Ladder {
    /// Returns true if a hello would allow another step.
    pub(super) fn awaits_hello(self) -> bool {
        matches!(self, Self::AwaitingHello(_) | Self::Unasked(_))
    }

    /// The time at which the next step is due.
    pub(super) fn deadline(self, worker: &Worker, request: &Request, policy: &Policy) -> Moment {
        let patient = self.patient_deadline(worker, request.strength, policy);
        let limit = self.last_moment_of(request, policy);
        limit.map_or(patient, |limit| patient.min(limit))
    }

    /// The latest time for the next step on a machine whose time is limited.
    fn last_moment(self, limit: Limit, strength: Strength, policy: &Policy) -> Moment {
        match self {
            Self::Killed { at, .. } => limit.give_up.max(at + DYING),
            Self::Terminated { .. } => limit.kill,
            _ if strength == Strength::Drain => limit.terminate.saturating_sub(policy.stop_timeout),
            Self::AwaitingHello(_) | Self::Unasked(_) | Self::Told { .. } => limit.terminate,
        }
    }

    fn last_moment_of(self, request: &Request, policy: &Policy) -> Option<Moment> {
        request.limit.map(|limit| self.last_moment(limit, request.strength, policy))
    }

    fn patient_deadline(self, worker: &Worker, strength: Strength, policy: &Policy) -> Moment {
        match self {
            Self::Told { at, until } if strength == Strength::Drain => {
                idle_deadline(at, worker, policy).map_or(until, |idle| idle.min(until))
            }
            Self::Told { until, .. }
            | Self::AwaitingHello(until)
            | Self::Unasked(until)
            | Self::Terminated { until, .. }
            | Self::Killed { until, .. } => until,
        }
    }
}

/// The time at which a drain requested `at` has been idle for too long: the worker's log reports tasks, and none is
/// running.
fn idle_deadline(at: Moment, worker: &Worker, policy: &Policy) -> Option<Moment> {
    let tasks = worker.tasks.filter(|tasks| tasks.running == 0)?;
    Some(tasks.changed.max(at) + policy.drain_idle_timeout)
}

impl Machine {
    /// Handles a request that the worker ends.
    pub(super) fn asked(&mut self, now: Moment, request: Request, actions: &mut Vec<Action>) {
        match self.state {
            // After the boot the worker gets new credentials; if the boot does not happen, this worker cannot be
            // restarted.
            State::AwaitingReboot { ref mut expired, .. } if request.cause == Cause::CredentialsExpiring => {
                *expired = true;
            }
            State::AwaitingReboot { .. } if request.cause == Cause::NewCredentials => {}
            // After the boot the worker registers again.
            State::AwaitingReboot { .. } if request.cause == Cause::Redeploy && !self.policy.dynamic => {
                actions.push(Action::ForgetRun);
            }
            State::Preparing | State::BackingOff { .. } | State::Holding => {
                self.state = State::Ended(judge::unstarted(request.cause));
            }
            State::Spawning(earlier) => {
                let joined = earlier.map_or(request, |earlier| earlier.join(request));
                self.state = State::Spawning(Some(joined));
                let until = match joined.strength {
                    Strength::Drain => joined.limit.map(|limit| limit.terminate),
                    Strength::Stop => Some(now + STOP_AWAITS_SPAWN),
                    Strength::Kill => Some(now + KILL_AWAITS_SPAWN),
                };
                self.spawn_until = self.spawn_until.into_iter().chain(until).min();
            }
            State::Running(worker) => self.begin(now, worker, request, actions),
            State::Stopping(worker, earlier, ladder) => {
                let joined = earlier.join(request);
                if joined.strength > earlier.strength {
                    self.begin(now, worker, joined, actions);
                } else {
                    self.state = State::Stopping(worker, joined, ladder);
                }
            }
            State::Clearing(ended, earlier, mut clearing) => {
                let joined = earlier.map_or(request, |earlier| earlier.join(request));
                if request.strength == Strength::Kill && matches!(clearing, Clearing::Asked(_)) {
                    clearing = self.clear_harder(now, clearing, Some(joined), actions);
                }
                self.state = State::Clearing(ended, Some(joined), clearing);
            }
            State::Lingering { ended, in_place, .. } => {
                self.judge(now, ended, Some(request), in_place, actions);
            }
            State::AwaitingReboot { .. } => {
                if request.hold {
                    actions.push(Action::MarkHeld);
                    self.state = State::Ended(Outcome::Held);
                } else {
                    self.state = State::Ended(judge::unstarted(request.cause));
                }
            }
            State::Ended(_) => {}
        }
    }

    /// Takes the first step that the request's strength and the worker's hello allow.
    pub(super) fn begin(
        &mut self,
        now: Moment,
        mut worker: Worker,
        request: Request,
        actions: &mut Vec<Action>,
    ) {
        if request.strength != Strength::Kill {
            worker.continue_to_end(now, actions);
        }
        let ladder = match (request.strength, worker.hello) {
            (Strength::Kill, _) => self.kill(now, false, actions),
            (Strength::Drain, Hello::Awaited(until)) => Ladder::AwaitingHello(until.max(now)),
            (Strength::Stop, Hello::Awaited(until)) => {
                Ladder::AwaitingHello(until.min(now + STOP_AWAITS_HELLO).max(now))
            }
            (strength, Hello::Said { graceful_termination: true, .. }) => self.tell(now, strength, actions),
            (Strength::Drain, _) => Ladder::Unasked(now + self.policy.drain_timeout),
            (Strength::Stop, _) => terminate(now, self.policy.stop_timeout, actions),
        };
        actions.push(Action::Note(Note::Ending { pid: worker.pid, request, ladder }));
        self.state = State::Stopping(worker, request, ladder);
    }

    fn tell(&self, now: Moment, strength: Strength, actions: &mut Vec<Action>) -> Ladder {
        let finish_tasks = strength == Strength::Drain;
        let time = if finish_tasks { self.policy.drain_timeout } else { self.policy.stop_timeout };
        actions.push(Action::Tell { finish_tasks });
        Ladder::Told { at: now, until: now + time }
    }

    fn kill(&self, now: Moment, again: bool, actions: &mut Vec<Action>) -> Ladder {
        actions.push(Action::Kill);
        Ladder::Killed { at: now, until: now + self.policy.kill_timeout, again }
    }

    /// Gives up on a worker that survives SIGKILL: the supervision ends without it.
    fn give_up(&mut self, now: Moment, worker: Worker, request: Request, actions: &mut Vec<Action>) {
        let ended = Ended {
            exit: Exit::STUCK,
            ran: now.saturating_sub(worker.since),
            leaving: worker.leaving,
            reboots: worker.reboots,
        };
        actions.push(Action::GiveUp);
        self.state = State::Clearing(ended, Some(request), Clearing::Abandoned);
    }

    /// Takes the next step after the time limit of the last one.
    pub(super) fn climb(
        &mut self,
        now: Moment,
        worker: Worker,
        request: Request,
        ladder: Ladder,
        actions: &mut Vec<Action>,
    ) {
        let drain = request.strength == Strength::Drain;
        let next = match ladder {
            Ladder::AwaitingHello(_) => {
                actions.push(Action::Note(Note::NoHello { waited: now.saturating_sub(worker.since) }));
                let worker = Worker { hello: Hello::Absent, ..worker };
                self.begin(now, worker, request, actions);
                return self.refresh(now, actions);
            }
            Ladder::Told { until, .. } | Ladder::Unasked(until) if drain => {
                let hurried = ladder.last_moment_of(&request, &self.policy).is_some_and(|last| now >= last);
                let note = if hurried {
                    Note::DeadlineNear
                } else if now < until {
                    Note::DrainIdle { idle: self.policy.drain_idle_timeout }
                } else {
                    Note::DrainTooLong { waited: self.policy.drain_timeout }
                };
                actions.push(Action::Note(note));
                let request = Request { strength: Strength::Stop, ..request };
                return self.begin(now, worker, request, actions);
            }
            Ladder::Told { at, until } => {
                actions.push(Action::Note(Note::StopTooLong { waited: now.min(until).saturating_sub(at) }));
                terminate(now, self.policy.kill_timeout, actions)
            }
            Ladder::Unasked(_) => {
                actions.push(Action::Note(Note::StopTooLong { waited: self.policy.stop_timeout }));
                terminate(now, self.policy.kill_timeout, actions)
            }
            Ladder::Terminated { at, until } => {
                actions.push(Action::Note(Note::TermTooLong { waited: now.min(until).saturating_sub(at) }));
                self.kill(now, false, actions)
            }
            Ladder::Killed { until, again: false, .. } if now >= until => {
                actions.push(Action::Note(Note::KillTooLong { pid: worker.pid }));
                self.kill(now, true, actions)
            }
            Ladder::Killed { .. } => return self.give_up(now, worker, request, actions),
        };
        self.state = State::Stopping(worker, request, next);
    }
}

fn terminate(now: Moment, time: Duration, actions: &mut Vec<Action>) -> Ladder {
    actions.push(Action::Terminate);
    Ladder::Terminated { at: now, until: now + time }
}
