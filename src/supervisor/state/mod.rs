//! The supervisor's decisions as a state machine: [`Machine::handle`] takes an event and returns the actions.
//!
//! PURE: no tokio, no clock, no I/O. Time comes in as a [`Moment`]; timers are [`Machine::deadline`], answered by
//! [`Event::Deadline`]. Property tests therefore run it for millions of events.
//!
//! ```text
//!              ┌─────────── start again (held: Holding ──resumed──▶) ◀─────────────┐
//!              ▼                                                                   │
//!  Preparing ──Prepared──▶ Spawning ──Started──▶ Running ──Exited──────┐           │
//!      │                      │                    │                   │           │
//!      │                      │                  asked                 ▼           │
//!      │                      │                    ▼               Clearing ──▶ judge ──▶ BackingOff
//!      │                      │                 Stopping ──Exited──────▲        │  │ │
//!      │                      │                  (ladder)              │        │  │ └───▶ AwaitingReboot
//!      │                      │                                        │        │  │            │
//!   asked, StartFailed    StartFailed                                  │        │  ▼            │ asked, or
//!      │                      │                                        │        │ Lingering     │ too late
//!      └──────────────────────┴────────────────────────────────────────┼────────┴──┬────────────┘
//!                                                                      │           ▼
//!                                                                      │         Ended
//! ```
//!
//! * `Preparing`: the worker's files are being written. A request to end is granted at once, because no worker runs.
//! * `Spawning`: the program is being executed. A request is remembered; a stop waits 5 s for the program, which may be
//!   on a disk that does not answer.
//! * A start that fails for a temporary reason counts as a crash.
//! * `Running`: the worker is alive and has not been asked to end. Its hello is awaited for `helloTimeout`.
//! * `Stopping`: the worker has been asked to end; the ladder in `stop.rs` records the last step.
//! * `Stopping` leads to `Clearing` without an exit if the worker survives SIGKILL: it is given up, and the supervision
//!   ends with `Stuck`.
//! * `Clearing`: the process has exited; its leftover processes are terminated (SIGTERM, SIGKILL after `killTimeout`,
//!   given up after another), and its output is read. Requests that arrive now still count as the cause.
//! * `Lingering`: the worker was interrupted without a known request: waits 2 s for the runner's own SIGTERM.
//! * A run that fails (a crash that is not restarted, an unfit worker, a bad configuration, a start that fails) is counted
//!   over processes and boots; a long run or a finished task resets the count. An unfit worker is restarted once like a
//!   crash, then after the pauses of `failureBackoff`.
//! * `BackingOff`: waits before the next start; an operator's `resume` ends the wait. `AwaitingReboot`: waits for the
//!   host to reboot. If it does not, the worker is restarted in place if that is possible; otherwise the supervision ends.
//! * `Holding`: every restart, and a start whose files are being written, waits here while an operator holds the host
//!   (`start-worker hold`), and continues with `Preparing` when the host is resumed. A request to end is granted at once.
//! * A worker that a signal has stopped (SIGSTOP) remains `Running` or `Stopping`; `stopped.rs` handles it.
//! * New credentials are sent to a running worker; if it does not accept them, it is asked to finish and restarted.
//!   Files that are being written are written again.
//! * Limits (`maxTasks`, `maxUptime`): the worker is drained; its end is judged as one that nobody requested.
//! * `afterRun`: an end that nobody requested, without a restart, leads to `AwaitingReboot` with the host's reboot or
//!   shutdown. If that does not come, the supervision ends.
//! * judge (in `judge.rs`): cause × exit → next step. The cause takes precedence.

use std::time::Duration;

use crate::event::{Cause, Event, Exit, Outcome, RunFailure, Strength};

mod judge;
mod model;
mod note;
mod policy;
mod stop;
mod stopped;

pub use model::{Action, Clearing, Ended, Hello, Limit, Request, State, Tasks, Worker};
pub use note::Note;
pub use policy::{Policy, RebootPolicy};
pub use stop::Ladder;
pub use stopped::Stops;

/// A point in time, as the time since the machine was created.
pub type Moment = Duration;

/// The minimum time for leftover processes on a machine whose time is up.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// Time limit for a stop to wait for a program that is being executed.
const STOP_AWAITS_SPAWN: Duration = Duration::from_secs(5);
const KILL_AWAITS_SPAWN: Duration = Duration::from_secs(1);

/// A worker that is asked to finish its tasks within about 5 s of a claim hangs when it has (generic-worker 106).
const AFTER_CLAIM: Duration = Duration::from_secs(10);

/// Time limit for the signal that explains an interrupted exit.
const LINGER: Duration = Duration::from_secs(2);

/// The supervisor's state machine.
#[derive(Debug, Clone)]
pub struct Machine {
    policy: Policy,
    state: State,
    /// Crashes since the last run that was longer than the restart window.
    crashes: u32,
    /// Consecutive short runs, which increase the back-off.
    short_runs: u32,
    /// Failed runs in a row, of earlier processes and boots too.
    failed_runs: u32,
    /// The number of renewals of the credentials.
    credentials: u32,
    /// The number of renewals before the worker's files were written.
    written: u32,
    /// While the program is being executed: the time until which a stop request waits for it.
    spawn_until: Option<Moment>,
    /// An operator holds this host.
    held: bool,
}

impl Machine {
    /// Creates a machine that is about to start its first worker, and its first actions.
    #[must_use]
    pub fn new(policy: Policy) -> (Self, Vec<Action>) {
        let machine = Self {
            failed_runs: policy.failed_runs,
            policy,
            state: State::Preparing,
            crashes: 0,
            short_runs: 0,
            credentials: 0,
            written: 0,
            spawn_until: None,
            held: false,
        };
        (machine, vec![Action::Prepare])
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// The number of crashes that count towards `maxRestarts`.
    pub fn crashes(&self) -> u32 {
        self.crashes
    }

    /// The time at which [`Event::Deadline`] is due.
    pub fn deadline(&self) -> Option<Moment> {
        match &self.state {
            State::Stopping(worker, request, ladder) => Some(ladder.deadline(worker, request, &self.policy)),
            State::Running(worker) => worker.deadline(),
            State::Clearing(_, _, Clearing::Asked(until) | Clearing::Killed(until))
            | State::Lingering { until, .. }
            | State::BackingOff { until }
            | State::AwaitingReboot { until, .. } => Some(*until),
            State::Spawning(_) => self.spawn_until,
            State::Preparing
            | State::Holding
            | State::Clearing(_, _, Clearing::Abandoned)
            | State::Ended(_) => None,
        }
    }

    /// Returns true if the next step after the current exit depends on whether the worker can be restarted in place.
    /// Derived from the decision itself, so that the two cannot disagree.
    pub fn restart_in_place_matters(&self, now: Moment) -> bool {
        let decision = |in_place| {
            let mut machine = self.clone();
            let actions = machine.handle(now, Event::Settled { in_place });
            (machine.state, actions)
        };
        decision(true) != decision(false)
    }

    /// Handles an event, and returns the actions. Events without a meaning in the current state do nothing.
    #[must_use]
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Prepared => self.prepared(&mut actions),
            Event::StartFailed { passing } => self.start_failed(now, passing, &mut actions),
            Event::Started { pid } => self.started(now, pid, &mut actions),
            Event::Hello { graceful_termination, new_credentials } => {
                self.hello(now, Hello::Said { graceful_termination, new_credentials }, &mut actions);
            }
            Event::Renewed { renewals } => self.renewed(now, renewals, &mut actions),
            Event::OldCredentialsEnd { renewals } => self.old_credentials_end(now, renewals, &mut actions),
            Event::TaskStarted => self.task_started(now),
            Event::TaskFinished => {
                self.task_finished(now, &mut actions);
                // Its last words may be read after its exit.
                if matches!(self.state, State::Running(_) | State::Stopping(..) | State::Clearing(..)) {
                    self.forget_failures(&mut actions);
                }
            }
            Event::ShutdownAsked => self.shutdown_asked(&mut actions),
            Event::RebootAsked => self.reboot_asked(),
            Event::Stop(request) => self.asked(now, Request::from(request), &mut actions),
            Event::Asked { strength, cause } => {
                self.asked(now, Request::new(strength, cause), &mut actions);
            }
            Event::Interrupted { strength, cause, within } => {
                let limit = within.map(|left| Limit::within(now, left, self.policy.kill_timeout));
                let request = Request { limit, ..Request::new(strength, cause) };
                self.asked(now, request, &mut actions);
            }
            Event::WorkerStopped { signal, lent } => self.worker_stopped(now, signal, lent, &mut actions),
            Event::WorkerContinued => self.worker_continued(&mut actions),
            Event::Exited(exit) => self.exited(now, exit, &mut actions),
            Event::Settled { in_place } => self.settled(now, in_place, &mut actions),
            Event::Resumed => self.resumed(&mut actions),
            Event::Held => self.hold(),
            Event::Released => self.release(&mut actions),
            Event::Deadline => self.deadline_reached(now, &mut actions),
        }
        actions
    }

    fn prepared(&mut self, actions: &mut Vec<Action>) {
        if self.state != State::Preparing {
            return;
        }
        if self.written < self.credentials {
            // Credentials were renewed while the files were being written.
            return self.start(actions);
        }
        self.state = State::Spawning(None);
        self.spawn_until = None;
        actions.push(Action::Spawn);
    }

    fn start_failed(&mut self, now: Moment, passing: bool, actions: &mut Vec<Action>) {
        match self.state {
            State::Spawning(Some(request)) => self.state = State::Ended(judge::unstarted(request.cause)),
            State::Preparing | State::Spawning(None) if passing => {
                self.try_again(now, Outcome::StartFailed, actions);
            }
            State::Preparing | State::Spawning(None) => {
                self.count_failure(RunFailure::Start, actions);
                self.state = State::Ended(Outcome::StartFailed);
            }
            _ => {}
        }
    }

    fn started(&mut self, now: Moment, pid: u32, actions: &mut Vec<Action>) {
        let State::Spawning(request) = self.state else { return };
        let hello = Hello::Awaited(now + self.policy.hello_timeout);
        let worker = Worker {
            pid,
            since: now,
            hello,
            tasks: None,
            finished_tasks: 0,
            limit: self.policy.max_uptime.map(|most| now + most),
            leaving: false,
            reboots: false,
            credentials: self.written,
            stops: Stops::default(),
        };
        self.state = State::Running(worker);
        if let Some(request) = request {
            self.begin(now, worker, request, actions);
        }
    }

    fn hello(&mut self, now: Moment, hello: Hello, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Running(worker) => worker.hello = hello,
            State::Stopping(worker, request, ladder) => {
                worker.hello = hello;
                if ladder.awaits_hello() {
                    let (worker, request) = (*worker, *request);
                    self.begin(now, worker, request, actions);
                }
            }
            _ => return,
        }
        self.refresh(now, actions);
    }

    fn renewed(&mut self, now: Moment, renewals: u32, actions: &mut Vec<Action>) {
        self.credentials = self.credentials.max(renewals);
        self.refresh(now, actions);
    }

    /// Sends the latest credentials to a worker with older ones. A worker that does not accept them is asked to finish,
    /// and is restarted with them.
    pub(super) fn refresh(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let (State::Running(worker) | State::Stopping(worker, ..)) = &mut self.state else { return };
        if worker.credentials >= self.credentials {
            return;
        }
        match worker.hello {
            Hello::Awaited(_) => {}
            Hello::Said { new_credentials: true, .. } => {
                worker.credentials = self.credentials;
                actions.push(Action::TellCredentials);
            }
            Hello::Said { .. } | Hello::Absent => {
                self.asked(now, Request::new(Strength::Drain, Cause::NewCredentials), actions);
            }
        }
    }

    fn old_credentials_end(&mut self, now: Moment, renewals: u32, actions: &mut Vec<Action>) {
        if let State::Running(worker) | State::Stopping(worker, ..) = &self.state
            && worker.credentials <= renewals
            && worker.credentials < self.credentials
        {
            self.asked(now, Request::new(Strength::Stop, Cause::NewCredentials), actions);
        }
    }

    /// The last task that the worker may take has begun: it is asked to take no other, once the claim is certainly over.
    fn task_started(&mut self, now: Moment) {
        let most = self.policy.max_tasks;
        if let State::Running(worker) | State::Stopping(worker, ..) = &mut self.state {
            let running = worker.tasks.map_or(0, |tasks| tasks.running).saturating_add(1);
            worker.tasks = Some(Tasks { running, changed: now });
            if most.is_some_and(|most| worker.finished_tasks.saturating_add(running) >= most) {
                let late = now + AFTER_CLAIM;
                worker.limit = Some(worker.limit.map_or(late, |limit| limit.min(late)));
            }
        }
    }

    fn task_finished(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let (State::Running(worker) | State::Stopping(worker, ..)) = &mut self.state else { return };
        let running = worker.tasks.map_or(0, |tasks| tasks.running).saturating_sub(1);
        worker.tasks = Some(Tasks { running, changed: now });
        worker.finished_tasks = worker.finished_tasks.saturating_add(1);
        let finished = worker.finished_tasks;
        if self.policy.max_tasks.is_some_and(|most| finished >= most) {
            self.limit_reached(now, actions);
        }
    }

    /// A worker that nobody has asked to end is drained for one of its limits.
    fn limit_reached(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if let State::Running(worker) = &mut self.state {
            worker.limit = None;
            self.asked(now, Request::new(Strength::Drain, Cause::Limit), actions);
        }
    }

    /// A pause is over as soon as an operator does not want to wait any longer.
    fn resumed(&mut self, actions: &mut Vec<Action>) {
        if let State::BackingOff { .. } = self.state {
            self.start(actions);
        }
    }

    fn shutdown_asked(&mut self, actions: &mut Vec<Action>) {
        let leaving = match &mut self.state {
            State::Running(worker) | State::Stopping(worker, ..) => &mut worker.leaving,
            // The worker's last messages may be read after its exit.
            State::Clearing(ended, ..) => &mut ended.leaving,
            _ => return,
        };
        if *leaving {
            return;
        }
        let granted = self.policy.shutdown_host;
        *leaving = granted;
        actions.push(Action::Note(Note::ShutdownAsked { granted }));
        if granted {
            actions.push(Action::ShutDownHost);
        }
    }

    fn reboot_asked(&mut self) {
        match &mut self.state {
            State::Running(worker) | State::Stopping(worker, ..) => worker.reboots = true,
            // The worker's last messages may be read after its exit.
            State::Clearing(ended, ..) => ended.reboots = true,
            _ => {}
        }
    }

    fn exited(&mut self, now: Moment, exit: Exit, actions: &mut Vec<Action>) {
        let (worker, request) = match self.state {
            State::Running(worker) => (worker, None),
            State::Stopping(worker, request, _) => (worker, Some(request)),
            _ => return,
        };
        let ended = Ended {
            exit,
            ran: now.saturating_sub(worker.since),
            leaving: worker.leaving,
            reboots: worker.reboots,
        };
        if ended.ran > self.policy.restart_window {
            self.forget_failures(actions);
        }
        actions.push(Action::Note(Note::Exited { exit, ran: ended.ran, expected: request.is_some() }));
        let until = self.leftovers_until(now, request);
        let killed = request.is_some_and(|request| request.strength == Strength::Kill);
        let terminate = self.policy.kill_descendants;
        actions.push(Action::Clear { terminate: terminate && !killed });
        let clearing = if killed && terminate {
            actions.push(Action::KillLeftovers);
            Clearing::Killed(until)
        } else {
            Clearing::Asked(until)
        };
        self.state = State::Clearing(ended, request, clearing);
    }

    fn settled(&mut self, now: Moment, in_place: bool, actions: &mut Vec<Action>) {
        if let State::Clearing(ended, request, _) = self.state {
            self.judge(now, ended, request, in_place, actions);
        }
    }

    fn deadline_reached(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.state {
            State::Running(worker) if worker.limit.is_some_and(|limit| now >= limit) => {
                self.limit_reached(now, actions);
            }
            State::Running(worker) => {
                actions.push(Action::Note(Note::NoHello { waited: self.policy.hello_timeout }));
                self.state = State::Running(Worker { hello: Hello::Absent, ..worker });
                self.refresh(now, actions);
            }
            State::Stopping(worker, request, ladder) => self.climb(now, worker, request, ladder, actions),
            State::Clearing(ended, request, clearing) => {
                let next = self.clear_harder(now, clearing, request, actions);
                self.state = State::Clearing(ended, request, next);
            }
            State::Lingering { ended, in_place, .. } => self.crashed(now, ended, in_place, actions),
            State::BackingOff { .. } => self.start(actions),
            State::AwaitingReboot { expired: true, .. } => {
                self.state = State::Ended(Outcome::CredentialsExpired);
            }
            State::AwaitingReboot { in_place, powers_off, .. } => {
                self.reboot_did_not_come(in_place, powers_off, actions);
            }
            State::Spawning(request) => {
                actions.push(Action::AbandonSpawn);
                let outcome = request.map_or(Outcome::StartFailed, |request| judge::unstarted(request.cause));
                self.state = State::Ended(outcome);
            }
            State::Preparing | State::Holding | State::Ended(_) => {}
        }
    }

    /// The deadline for leftover processes.
    fn leftovers_until(&self, now: Moment, request: Option<Request>) -> Moment {
        let until = now + self.policy.kill_timeout;
        let limit = request.and_then(|request| request.limit);
        limit.map_or(until, |limit| until.min(limit.kill.max(now + LAST_MOMENT)))
    }

    fn clear_harder(
        &self,
        now: Moment,
        clearing: Clearing,
        request: Option<Request>,
        actions: &mut Vec<Action>,
    ) -> Clearing {
        if matches!(clearing, Clearing::Asked(_)) && self.policy.kill_descendants {
            actions.push(Action::Note(Note::LeftoversKilled { waited: self.policy.kill_timeout }));
            actions.push(Action::KillLeftovers);
            return Clearing::Killed(self.leftovers_until(now, request));
        }
        actions.push(Action::AbandonLeftovers);
        Clearing::Abandoned
    }

    /// No worker is started from now on. One that exists, or is being executed, goes on.
    fn hold(&mut self) {
        self.held = true;
        if matches!(self.state, State::Preparing | State::BackingOff { .. }) {
            self.state = State::Holding;
        }
    }

    fn release(&mut self, actions: &mut Vec<Action>) {
        self.held = false;
        if self.state == State::Holding {
            self.start(actions);
        }
    }

    /// The only way to a start, so that no worker is started while an operator holds the host.
    fn start(&mut self, actions: &mut Vec<Action>) {
        if self.held {
            self.state = State::Holding;
            return;
        }
        self.state = State::Preparing;
        self.written = self.credentials;
        actions.push(Action::Prepare);
    }
}

#[cfg(test)]
mod tests;
