//! The supervisor: the single owner of the worker's process, and the only place in which decisions are carried out.
//!
//! [`supervise`] is one loop. Its `select!` arms only create [`Event`]s; [`state::Machine`] decides; `perform` acts.
//! Sibling tasks (signals, credentials …) never touch the process: they send events.

use std::sync::Arc;

use nix::sys::signal::Signal;
use tokio::signal::unix::SignalKind;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use crate::autologin::Logins;
use crate::config::{HostSettings, Supervision};
use crate::event::{Event, Exit, Outcome, Reason, StopRequest};
use crate::failure_log::FailureLog;
use crate::hold::Hold;
use crate::host::blocking::Lanes;
use crate::host::helper::Helpers;
use crate::output::{Output, WorkerEvent};
use crate::protocol::capabilities::Capabilities;
use crate::protocol::message::ToWorker;
use crate::redact::Secrets;
use crate::run_spec::cache::CacheWriter;
use crate::stop::StopSignal;
use crate::telemetry::status::{Resume, Resumes};
use crate::telemetry::status_board::StatusPublisher;
use crate::worker::{InPlace, LaunchSpec};

mod ancestry;
mod changes;
mod child;
mod cleanup;
mod decision_log;
mod descendants;
mod hooks;
mod logins;
mod reports;
mod shutdown_tasks;
mod spawn;
mod start;
pub mod state;
mod stuck;
mod summary;
mod version;
mod wait;
mod worker_messages;

pub use ancestry::Strangers;
use child::Child;
use cleanup::{Cleanup, Surroundings};
use descendants::Descendants;
pub use hooks::HookJob;
pub use reports::ReportSender;
use start::Spawned;
use state::{Action, Machine, Moment, Note, Policy, State};
use wait::{Starting, changed, child_signal, executed, expired, next, prepared, renewed, tick};

/// The number of the worker's last lines that are logged when the runner gives up on it.
const LAST_LINES: usize = 20;

/// The parameters of one supervised run.
#[derive(Debug)]
pub struct Job {
    /// The latest launch: the program, and the meaning of its exits. It changes when credentials are renewed.
    pub launches: watch::Receiver<LaunchSpec>,
    /// `supervision`.
    pub supervision: Supervision,
    /// `host`.
    pub host: HostSettings,
    /// The registry of the runner's own short-lived children.
    pub helpers: Helpers,
    /// The capabilities that the runner offers to this worker.
    pub offered: Capabilities,
    pub cache_writer: CacheWriter,
    /// True if the host is removed together with its worker.
    pub dynamic: bool,
    /// The record of failed runs.
    pub failures: FailureLog,
    /// The operators' requests to resume.
    pub resumes: Resumes,
    /// Set once the worker has asked for the shutdown of its host, and is allowed to.
    pub leave: watch::Sender<bool>,
    /// Sends error reports to worker-manager; `None`: that is impossible.
    pub reports: Option<ReportSender>,
    /// The secrets to mask in the worker's messages.
    pub secrets: Secrets,
    /// The host's automatic login; `None`: a worker cannot set it.
    pub logins: Option<Arc<Logins>>,
    /// The hold of this host: whether another worker may be started.
    pub hold: Hold,
    /// The operator's hooks.
    pub hooks: HookJob,
    /// Whom to tell of every change.
    pub publisher: StatusPublisher,
    /// Children of this process that are not a worker's leftovers.
    pub strangers: Strangers,
    /// The request to end the runner, and its strength.
    pub stop: StopSignal,
    /// The lanes for calls that can hang.
    pub lanes: Lanes,
}

/// Starts the worker and supervises it until the supervision ends. `events` receives the siblings' events.
pub async fn supervise(mut job: Job, output: &Output, events: &mut mpsc::Receiver<Event>) -> Outcome {
    let spec = job.launches.borrow_and_update().clone();
    let policy = Policy::new(&job.supervision, &spec, &job.host, (job.dynamic, job.failures.failed_runs()));
    let (mut machine, mut first) = Machine::new(policy);
    let held_seen = job.hold.current().is_some();
    if held_seen {
        first = machine.handle(Moment::ZERO, Event::Held);
    }
    let descendants = Descendants::new(job.supervision.kill_descendants, &job.strangers, job.helpers.clone());
    let descendants = job.publisher.manager().alive_while(descendants).await;
    let at_the_end = TaskTracker::new();
    let hooks = hooks::RunHooks::new(job.hooks.clone(), descendants.helpers(), job.secrets.clone());
    let logins = logins::Requests::new(job.logins.take(), descendants.helpers(), &at_the_end);
    let mut supervisor = Supervisor {
        registers: job.reports.is_some(),
        hooks,
        reports: reports::Reports::new(job.reports.take(), job.secrets.clone()),
        logins,
        job,
        spec,
        output,
        machine,
        epoch: Instant::now(),
        child: None,
        worker_events: None,
        preparing: None,
        spawning: None,
        cleanup: None,
        descendants,
        in_place: None,
        last_exit: None,
        oom_kills_before: None,
        last_lines: Vec::new(),
        pause: None,
        stop_seen: None,
        held_seen,
        at_the_end,
        reboot_needless: CancellationToken::new(),
    };
    supervisor.publish();
    supervisor.perform_all(first);
    let outcome = supervisor.run(events).await;
    supervisor.descendants.end_cgroup().await;
    outcome
}

struct Supervisor<'a> {
    job: Job,
    /// The latest of `job.launches`.
    spec: LaunchSpec,
    reports: reports::Reports,
    hooks: hooks::RunHooks,
    /// The worker registers again where its credentials have run out or a new deployment is out.
    registers: bool,
    logins: logins::Requests,
    output: &'a Output,
    machine: Machine,
    epoch: Instant,
    /// The worker's process; `None` before its start and after its exit has been evaluated.
    child: Option<Child>,
    worker_events: Option<mpsc::Receiver<WorkerEvent>>,
    preparing: Option<Starting<()>>,
    spawning: Option<Starting<Spawned>>,
    cleanup: Option<Cleanup>,
    descendants: Descendants,
    /// The result of `--version`, once it is known.
    in_place: Option<bool>,
    last_exit: Option<Exit>,
    /// The number of out-of-memory kills before the worker was started.
    oom_kills_before: Option<u64>,
    last_lines: Vec<String>,
    /// The reason for the present pause, where failed runs are.
    pause: Option<Reason>,
    /// The stop request that the machine knows.
    stop_seen: Option<StopRequest>,
    /// True if the machine knows that the host is held.
    held_seen: bool,
    /// What must be over before the runner ends: host commands, the mark of a drain, automatic logins.
    at_the_end: TaskTracker,
    /// Cancelled when the wait for a reboot has ended for another reason.
    reboot_needless: CancellationToken,
}

impl Supervisor<'_> {
    async fn run(&mut self, events: &mut mpsc::Receiver<Event>) -> Outcome {
        let mut orphans = tokio::signal::unix::signal(SignalKind::child()).ok();
        let mut attendant = self.job.publisher.liveness().attend();
        loop {
            if let State::Ended(outcome) = *self.machine.state() {
                drop(attendant);
                self.finish(outcome, events).await;
                return outcome;
            }
            let deadline = self.machine.deadline().map(|moment| self.epoch + moment);
            let event = tokio::select! {
                // In this order: a renewal counts before its consequences, and a request before the exit that it
                // caused.
                biased;
                spec = renewed(&mut self.job.launches) => {
                    let renewals = spec.renewals;
                    self.spec = spec;
                    Some(Event::Renewed { renewals })
                }
                request = self.job.stop.beyond(self.stop_seen) => {
                    self.stop_seen = Some(request);
                    Some(Event::Stop(request))
                }
                held = self.job.hold.beyond(self.held_seen) => {
                    self.held_seen = held;
                    Some(if held { Event::Held } else { Event::Released })
                }
                Some(event) = events.recv() => Some(event),
                resume = self.job.resumes.next() => self.resume(resume),
                // Before the worker's messages, so that a worker that never stops sending is still stopped in time.
                () = expired(deadline) => Some(Event::Deadline),
                // The only heartbeats while a worker is supervised: they prove that this loop makes progress.
                () = self.job.publisher.manager().heartbeat() => None,
                Some(said) = next(&mut self.worker_events) => self.heard(said),
                change = changed(&mut self.child, self.cleanup.is_none()) => self.worker_changed(change),
                result = prepared(&mut self.preparing) => match result {
                    Ok(()) => Some(Event::Prepared),
                    Err(cause) if cause.is_given_up() => None,
                    Err(cause) => Some(start::failed(&cause)),
                },
                result = executed(&mut self.spawning) => Some(self.adopt(result)),
                () = tick(&mut self.cleanup) => self.advance_clearing(),
                // Includes orphans that died while nothing could be reaped.
                Some(()) = child_signal(&mut orphans, &self.job.helpers) => {
                    self.descendants.orphan_died();
                    self.advance_clearing()
                }
                () = self.descendants.observation() => {
                    self.descendants.observe();
                    None
                }
                // Last: a loop that never gets here is not alive.
                () = attendant.asked() => {
                    attendant.answer();
                    None
                }
            };
            if let Some(event) = event {
                self.happened(event);
            }
        }
    }

    fn now(&self) -> Moment {
        self.epoch.elapsed()
    }

    /// Handles an event and performs the resulting actions. An action can itself create an event (a spawn that fails).
    fn happened(&mut self, event: Event) {
        let mut pending = vec![event];
        while let Some(event) = pending.pop() {
            let before = *self.machine.state();
            let actions = self.machine.handle(self.now(), event);
            let after = *self.machine.state();
            if before == after {
                debug!(?event, "event changes nothing");
            } else {
                debug!(?event, ?before, ?after, "event");
            }
            self.follow(event, before, &actions);
            self.publish();
            for action in actions {
                pending.extend(self.perform(action));
            }
            self.forget_version();
        }
    }

    fn perform_all(&mut self, actions: Vec<Action>) {
        for action in actions {
            if let Some(event) = self.perform(action) {
                self.happened(event);
            }
        }
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            // Only the version check or the log delays the cleanup.
            Action::Note(Note::LeftoversKilled { .. }) if !self.has_leftovers() => {}
            Action::Note(note) => {
                self.note(note);
                self.note_pause(note);
            }
            Action::Prepare => return self.prepare(),
            Action::Spawn => self.execute(),
            Action::AbandonSpawn => self.abandon_spawn(),
            Action::Tell { finish_tasks } => {
                self.with_child(|child| child.tell(&ToWorker::GracefulTermination { finish_tasks }));
            }
            Action::TellCredentials => self.tell_credentials(),
            Action::Terminate => self.with_child(Child::terminate_group),
            Action::Continue => self.with_child(|child| child.signal_group(Signal::SIGCONT)),
            Action::TakeTerminal => self.with_child(Child::take_terminal),
            Action::LendTerminal => self.child.iter_mut().for_each(Child::lend_terminal),
            Action::Kill => {
                self.with_child(|child| child.signal_group(Signal::SIGKILL));
                if self.job.supervision.kill_descendants {
                    self.descendants.kill();
                }
            }
            Action::GiveUp => return self.give_up(),
            Action::Clear { terminate } => return self.clear(terminate),
            Action::KillLeftovers => self.with_cleanup(Cleanup::kill),
            Action::AbandonLeftovers => self.with_cleanup(Cleanup::abandon),
            Action::ShutDownHost => self.leave_host(),
            Action::ForgetRun => self.forget_run(),
            Action::RebootHost => self.reboot_host(),
            Action::PowerOffHost => self.power_off_host(),
            Action::Report(outcome) => self.concluded(outcome),
            Action::MarkHeld => self.set_drain_marker(),
            Action::CountFailure { failed_runs, failure } => self.count_failure(failed_runs, failure),
            Action::ForgetFailures => self.forget_failures(),
        }
        None
    }

    /// An operator does not want to wait for the next start.
    fn resume(&self, resume: Resume) -> Option<Event> {
        if !matches!(self.machine.state(), State::BackingOff { .. }) {
            // Dropped without an answer: there is nothing to resume.
            return None;
        }
        info!("resumed: the worker is started without waiting any longer");
        // A client that has gone needs no answer.
        let _ = resume.answer.send(Ok(()));
        Some(Event::Resumed)
    }

    fn tell_credentials(&self) {
        let credentials = &self.spec.credentials;
        info!(name: "credentials-handed-over", client_id = credentials.client_id, "new credentials go to the worker");
        self.with_child(|child| {
            child.tell(&ToWorker::NewCredentials {
                client_id: credentials.client_id.clone(),
                access_token: credentials.access_token.clone(),
                certificate: credentials.certificate.clone(),
            });
        });
    }

    fn has_leftovers(&self) -> bool {
        self.cleanup.as_ref().is_some_and(Cleanup::has_leftovers)
    }

    fn with_child(&self, act: impl FnOnce(&Child)) {
        if let Some(child) = &self.child {
            act(child);
        }
    }

    fn with_cleanup(&mut self, act: impl FnOnce(&mut Cleanup, &mut Self)) {
        if let Some(mut clearing) = self.cleanup.take() {
            act(&mut clearing, self);
            self.cleanup = Some(clearing);
        }
    }

    fn clear(&mut self, terminate: bool) -> Option<Event> {
        let leave = !self.job.supervision.kill_descendants;
        self.descendants.worker_ended();
        self.cleanup = Some(Cleanup::begin(leave, terminate, self));
        // The output may have ended before the process.
        self.advance_clearing()
    }

    fn advance_clearing(&mut self) -> Option<Event> {
        let mut clearing = self.cleanup.take()?;
        let Some(in_place) = clearing.advance(self) else {
            self.cleanup = Some(clearing);
            return None;
        };
        if self.machine.restart_in_place_matters(self.now()) {
            self.in_place = Some(in_place);
        }
        self.descendants.leave_cgroup();
        self.job.publisher.publish_tasks_lost();
        self.child = None;
        self.worker_events = None;
        Some(Event::Settled { in_place })
    }
}

impl Surroundings for Supervisor<'_> {
    fn descendants(&mut self) -> &mut Descendants {
        &mut self.descendants
    }

    fn finish_output(&self) {
        self.with_child(Child::finish_output);
    }

    fn output_ended(&self) -> bool {
        self.worker_events.is_none()
    }

    fn in_place(&self) -> Option<bool> {
        match self.spec.restart_in_place {
            InPlace::Yes => Some(true),
            InPlace::AskVersion if self.machine.restart_in_place_matters(self.now()) => self.in_place,
            InPlace::No | InPlace::AskVersion => Some(false),
        }
    }

    fn ask_version(&self, forget: CancellationToken) -> tokio::task::JoinHandle<bool> {
        let (helpers, lanes) = (self.descendants.helpers(), self.job.lanes.clone());
        tokio::spawn(version::can_restart_in_place(self.spec.clone(), (helpers, lanes), forget))
    }
}
