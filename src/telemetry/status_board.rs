//! The runner's current state, published by its parts and seen by observers.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::event::{Cause, Exit, Phase, Reason, StateSummary};
use crate::host::service_manager::ServiceManager;
use crate::run_spec::{Run, WorkerIdentity};
use crate::telemetry::counters::Counters;
use crate::telemetry::event_log::EventLog;
use crate::telemetry::liveness::Liveness;

/// The number of the worker's exits to keep.
const EXITS: usize = 5;

/// The published state.
#[derive(Debug, Clone)]
pub struct StatusBoard {
    /// The runner's current activity.
    pub summary: StateSummary,
    /// The last time at which the phase or the worker's process changed.
    pub since: Timestamp,
    /// The time at which a signal stopped the worker, if it is stopped.
    pub stopped_since: Option<Timestamp>,
    /// The worker's identity, once it is known.
    pub worker: Option<Arc<KnownWorker>>,
    /// The expiry of the worker's credentials; `None`: never, or not known yet.
    pub credentials_expire: Option<Timestamp>,
    /// The time of the next renewal; `None`: never, not known yet, or the renewal is impossible.
    pub credentials_renew: Option<Timestamp>,
    /// The start of the runner.
    pub started: Timestamp,
    /// The worker's starts and ends so far.
    pub runs: Runs,
    /// The worker's tasks; `None`: this kind of worker does not tell of them.
    pub tasks: Option<Tasks>,
    /// The watch for new deployments; `None`: there is none.
    pub deployment: Option<DeploymentWatch>,
    /// The watch for interruptions; `None`: there is none.
    pub interruption: Option<InterruptionWatch>,
}

/// The worker's starts and ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    /// The number of starts.
    pub starts: u32,
    /// The number of starts after the first.
    pub restarts: u32,
    /// The crashes that count towards `supervision.maxRestarts`.
    pub crashes: Crashes,
    /// The last exits, oldest first.
    pub exits: VecDeque<PastExit>,
}

/// The worker's tasks, as its log records tell of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tasks {
    /// The number of tasks that run now.
    pub running: u32,
    /// The start of the first of them.
    pub since: Option<Timestamp>,
    /// The number of tasks that have finished.
    pub finished: u64,
    /// The number of tasks that ran when the worker ended.
    pub lost: u64,
    /// The last task that ended.
    pub last: Option<PastTask>,
}

/// A task that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastTask {
    /// The end.
    pub at: Timestamp,
    /// The task's end.
    pub result: TaskResult,
}

/// The end of a task. A worker's records do not tell whether the task succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskResult {
    /// The worker has finished it.
    Finished,
    /// The worker ended while it ran.
    Lost,
}

impl TaskResult {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Finished, Self::Lost];

    /// Its name, for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Lost => "lost",
        }
    }
}

/// Consecutive crashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crashes {
    pub count: u32,
    /// `supervision.maxRestarts`.
    pub allowed: u32,
    /// `supervision.restartWindow`: a longer run resets the count.
    pub window: Duration,
}

/// An exit of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastExit {
    pub at: Timestamp,
    pub exit: Exit,
    /// The duration of the run.
    pub ran: Duration,
    pub circumstances: Circumstances,
}

/// Facts about a run of the worker beside its exit status, from the operating system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// The process that has exited, if there was one.
    pub pid: Option<u32>,
    /// True if it wrote a core dump.
    pub dumped: bool,
    /// The CPU time of the worker and its tasks; `None`: the worker had no cgroup of its own.
    pub cpu: Option<Duration>,
    /// The number of processes that the kernel killed for lack of memory during the run.
    pub oom_kills: u64,
}

/// Explains missing processes, in an operator's words.
pub fn killed_for_memory(kills: u64) -> String {
    let processes = if kills == 1 { "process" } else { "processes" };
    format!("the kernel killed {kills} {processes} for lack of memory while it ran")
}

/// The watch for new deployments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeploymentWatch {
    /// The watched values: `deploymentId`, `launchConfigId`, `shouldWorkerTerminate`.
    pub sources: Vec<&'static str>,
    /// The values with which the run was made, by source.
    pub values: Vec<(&'static str, String)>,
    /// The time of the last check.
    pub last_check: Option<Timestamp>,
    /// The result of the last check: `nothing new`.
    pub result: Option<String>,
}

/// The watch for interruptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterruptionWatch {
    /// `EC2`, `Azure` or `GCE`.
    pub cloud: &'static str,
    /// The time of the cloud's last answer.
    pub last_answer: Option<Timestamp>,
    /// The reason why the cloud does not answer.
    pub failure: Option<String>,
    /// The cloud's last notice.
    pub notice: Option<String>,
}

/// The worker's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownWorker {
    pub root_url: String,
    /// The name within the deployment.
    pub identity: WorkerIdentity,
}

/// Publishes the runner's state to observers, and never waits for them. Clones publish the same state.
#[derive(Clone)]
pub struct StatusPublisher {
    clock: Arc<dyn Clock>,
    board: watch::Sender<StatusBoard>,
    manager: ServiceManager,
    counters: Counters,
    liveness: Liveness,
    events: EventLog,
}

impl fmt::Debug for StatusPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusPublisher").field("board", &*self.board.borrow()).finish_non_exhaustive()
    }
}

impl StatusPublisher {
    /// Starts with [`Phase::Preparing`].
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.now();
        let board = StatusBoard {
            summary: Phase::Preparing.into(),
            since: now,
            stopped_since: None,
            worker: None,
            credentials_expire: None,
            credentials_renew: None,
            started: now,
            runs: Runs::default(),
            tasks: None,
            deployment: None,
            interruption: None,
        };
        let (board, manager) = (watch::Sender::new(board), ServiceManager::default());
        let (counters, liveness) = (Counters::default(), Liveness::default());
        Self { clock, board, manager, counters, liveness, events: EventLog::default() }
    }

    /// Also asks the service manager for patience during long phases.
    #[must_use]
    pub fn with_manager(self, manager: ServiceManager) -> Self {
        manager.extend(takes_its_time(self.board.borrow().summary.phase, manager.is_ready()));
        Self { manager, ..self }
    }

    /// Notes what happens in this event log, too.
    #[must_use]
    pub fn with_events(self, events: EventLog) -> Self {
        Self { events, ..self }
    }

    /// The event log.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// The date, by the runner's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The service manager, which receives heartbeats.
    pub fn manager(&self) -> &ServiceManager {
        &self.manager
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The liveness of the supervisor's loop.
    pub fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    /// Subscribes an observer.
    pub fn observe(&self) -> watch::Receiver<StatusBoard> {
        self.board.subscribe()
    }

    /// Publishes the runner's current activity. An unchanged value is not a change.
    pub fn publish(&self, summary: StateSummary) {
        self.board.send_if_modified(|board| {
            let before = board.summary;
            if (before.phase, before.worker_pid) != (summary.phase, summary.worker_pid) {
                board.since = self.clock.now();
            }
            if before.stopped_by != summary.stopped_by {
                board.stopped_since = summary.stopped_by.map(|_| self.clock.now());
            }
            if let Some(pid) = summary.worker_pid.filter(|pid| before.worker_pid != Some(*pid)) {
                self.events.record("worker-start", json!({"pid": pid}));
            }
            let redeploys = Some(Reason::Asked(Cause::Redeploy));
            if summary.reason == redeploys && before.reason != redeploys {
                self.events.record("redeploy", json!({}));
            }
            board.summary = summary;
            let news = before != summary;
            if news && before.phase != summary.phase {
                self.manager.extend(takes_its_time(summary.phase, self.manager.is_ready()));
            }
            news
        });
    }

    /// Publishes the worker's identity, once the runner configuration, the provider or the cached run has determined
    /// it.
    pub fn publish_identity(&self, root_url: &str, identity: &WorkerIdentity) {
        let known = KnownWorker { root_url: root_url.to_owned(), identity: identity.clone() };
        self.board.send_if_modified(|board| {
            let news = board.worker.as_deref() != Some(&known);
            if news {
                board.worker = Some(Arc::new(known));
            }
            news
        });
    }

    /// Publishes the run with which the next worker is started.
    pub fn publish_run(&self, run: &Run) {
        self.publish_identity(&run.root_url, &run.identity);
        self.board.send_modify(|board| {
            board.credentials_renew = None;
            board.deployment = None;
            board.interruption = None;
        });
        self.publish_credentials(run.credentials.expires);
    }

    /// Publishes the time of the next renewal.
    pub fn publish_renewal(&self, renew: Option<Timestamp>) {
        self.board.send_if_modified(|board| std::mem::replace(&mut board.credentials_renew, renew) != renew);
    }

    /// Publishes the expiry of the worker's credentials.
    pub fn publish_credentials(&self, expire: Option<Timestamp>) {
        self.board
            .send_if_modified(|board| std::mem::replace(&mut board.credentials_expire, expire) != expire);
    }

    /// Publishes a start of the worker. `counts_tasks`: its log records tell of its tasks.
    pub fn publish_start(&self, counts_tasks: bool) {
        self.board.send_modify(|board| {
            if counts_tasks {
                board.tasks.get_or_insert_default();
            }
            let runs = &mut board.runs;
            runs.starts = runs.starts.saturating_add(1);
            runs.restarts = runs.starts.saturating_sub(1);
            self.counters.restarts.store(u64::from(runs.restarts), Ordering::Relaxed);
        });
    }

    /// The worker's log tells that a task has started.
    pub fn publish_task_start(&self) {
        let now = self.clock.now();
        self.board.send_modify(|board| {
            let tasks = board.tasks.get_or_insert_default();
            tasks.running = tasks.running.saturating_add(1);
            tasks.since.get_or_insert(now);
        });
    }

    /// The worker's log tells that a task has finished.
    pub fn publish_task_finish(&self) {
        let now = self.clock.now();
        self.counters.tasks.count([TaskResult::Finished.name()]);
        self.board.send_modify(|board| {
            let tasks = board.tasks.get_or_insert_default();
            tasks.running = tasks.running.saturating_sub(1);
            tasks.since = tasks.since.filter(|_| tasks.running > 0);
            tasks.finished = tasks.finished.saturating_add(1);
            tasks.last = Some(PastTask { at: now, result: TaskResult::Finished });
        });
    }

    /// The worker has ended, and its output has been read: the tasks that still ran are lost.
    pub fn publish_tasks_lost(&self) {
        let now = self.clock.now();
        self.board.send_if_modified(|board| {
            let Some(tasks) = board.tasks.as_mut().filter(|tasks| tasks.running > 0) else { return false };
            self.counters.tasks.add([TaskResult::Lost.name()], u64::from(tasks.running));
            tasks.lost = tasks.lost.saturating_add(u64::from(tasks.running));
            (tasks.running, tasks.since) = (0, None);
            tasks.last = Some(PastTask { at: now, result: TaskResult::Lost });
            true
        });
    }

    /// Publishes an exit of the worker.
    pub fn publish_exit(&self, exit: Exit, ran: Duration, circumstances: Circumstances) {
        self.counters.exits.count([exit.class.name()]);
        self.counters.oom_kills.fetch_add(circumstances.oom_kills, Ordering::Relaxed);
        self.events.record(
            "worker-exit",
            json!({
                "status": exit.status.to_string(), "meaning": exit.meaning, "class": exit.class.name(),
                "ranSeconds": ran.as_secs(),
            }),
        );
        let past = PastExit { at: self.clock.now(), exit, ran, circumstances };
        self.board.send_modify(|board| {
            let exits = &mut board.runs.exits;
            if exits.len() == EXITS {
                exits.pop_front();
            }
            exits.push_back(past);
        });
    }

    /// Publishes the crashes that count towards the limit.
    pub fn publish_crashes(&self, crashes: Crashes) {
        self.board.send_if_modified(|board| std::mem::replace(&mut board.runs.crashes, crashes) != crashes);
    }

    /// Publishes the sources of new deployments.
    pub fn publish_deployment(&self, watch: DeploymentWatch) {
        self.board.send_modify(|board| board.deployment = Some(watch));
    }

    /// Publishes the result of a check for a new deployment. An unchanged result is not a change.
    pub fn publish_check(&self, sources: Vec<&'static str>, result: String) {
        self.board.send_if_modified(|board| {
            let watch = board.deployment.get_or_insert_default();
            watch.last_check = Some(self.clock.now());
            let news = watch.result.as_ref() != Some(&result) || watch.sources != sources;
            (watch.sources, watch.result) = (sources, Some(result));
            news
        });
    }

    /// Publishes the cloud that is polled for interruptions.
    pub fn publish_interruption_watch(&self, cloud: &'static str) {
        let watch = InterruptionWatch { cloud, last_answer: None, failure: None, notice: None };
        self.board.send_modify(|board| board.interruption = Some(watch));
    }

    /// Publishes the result of the last poll. An unchanged result is not a change.
    pub fn publish_poll(&self, result: Result<(), String>) {
        let now = self.clock.now();
        self.board.send_if_modified(|board| {
            let Some(watch) = &mut board.interruption else { return false };
            let first = watch.last_answer.is_none() && result.is_ok();
            watch.last_answer = if result.is_ok() { Some(now) } else { watch.last_answer };
            let failure = result.err();
            let news = watch.failure != failure;
            watch.failure = failure;
            news || first
        });
    }

    /// Publishes a notice of the cloud.
    pub fn publish_notice(&self, notice: String) {
        self.events.record("interruption", json!({"notice": notice}));
        self.board.send_modify(|board| {
            if let Some(watch) = &mut board.interruption {
                watch.notice = Some(notice);
            }
        });
    }
}

/// Returns true if the service manager has to extend its time limit: a start may take as long as necessary, a drain and
/// a stop as long as they are allowed. `ready`: the manager considers the start as complete.
fn takes_its_time(phase: Phase, ready: bool) -> bool {
    match phase {
        // In these phases the manager waits for nothing, unlike in those of a host that goes down.
        Phase::Running | Phase::Holding => false,
        Phase::Preparing | Phase::Starting | Phase::BackingOff | Phase::AwaitingReboot => !ready,
        Phase::Draining | Phase::Stopping | Phase::Killing | Phase::Clearing | Phase::Ended => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Set(Mutex<Timestamp>);

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }

    #[test]
    fn the_time_of_a_phase_is_that_of_its_beginning() {
        let time = |second| Timestamp::from_second(second).unwrap();
        let clock = Arc::new(Set(Mutex::new(time(1))));
        let publisher = StatusPublisher::new(clock.clone());
        let mut seen = publisher.observe();
        let draining =
            |reason| StateSummary { worker_pid: Some(7), reason: Some(reason), ..Phase::Draining.into() };
        for (second, summary, news, since) in [
            (2, Phase::Preparing.into(), false, 1),
            (3, draining(Reason::Asked(Cause::NewCredentials)), true, 3),
            (4, draining(Reason::Asked(Cause::Operator)), true, 3),
            (5, draining(Reason::Asked(Cause::Operator)), false, 3),
            (6, StateSummary { worker_pid: Some(8), ..draining(Reason::Asked(Cause::Operator)) }, true, 6),
        ] {
            *clock.0.lock().unwrap() = time(second);
            publisher.publish(summary);
            assert_eq!(seen.has_changed().unwrap(), news, "{second}");
            let board = seen.borrow_and_update();
            assert_eq!((board.summary, board.since), (summary, time(since)), "{second}");
        }
    }
}
