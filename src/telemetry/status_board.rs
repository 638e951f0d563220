//! Where the runner stands: announced by whoever knows, seen by observers.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::event::{Exit, Phase, StateSummary};
use crate::host::service_manager::ServiceManager;
use crate::run_spec::{Run, WorkerIdentity};
use crate::telemetry::counters::Counters;
use crate::telemetry::liveness::Liveness;

/// How many of the worker's exits are kept.
const EXITS: usize = 5;

/// What there is to be seen.
#[derive(Debug, Clone)]
pub struct StatusBoard {
    /// What the runner is doing.
    pub summary: StateSummary,
    /// Since when: the last time that the phase, or the worker's process, became another.
    pub since: Timestamp,
    /// Since when a signal has stopped the worker, where one has.
    pub stopped_since: Option<Timestamp>,
    /// Who the worker is, once that is known.
    pub worker: Option<Arc<KnownWorker>>,
    /// When the worker's credentials end; `None`: never, or not known yet.
    pub credentials_expire: Option<Timestamp>,
    /// When they are renewed; `None`: never, or not known yet, or that could not be done.
    pub credentials_renew: Option<Timestamp>,
    /// When the runner started.
    pub started: Timestamp,
    /// The worker's starts and ends so far.
    pub runs: Runs,
    /// How new deployments are watched for; `None`: they are not.
    pub deployment: Option<DeploymentWatch>,
    /// How interruptions are watched for; `None`: they are not.
    pub interruption: Option<InterruptionWatch>,
}

/// The worker's starts and ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    /// How often it was started.
    pub starts: u32,
    /// How often it was started after the first time.
    pub restarts: u32,
    /// What counts against `supervision.maxRestarts`.
    pub crashes: Crashes,
    /// Its last ends, oldest first.
    pub exits: VecDeque<PastExit>,
}

/// Crashes in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crashes {
    /// How many.
    pub count: u32,
    /// `supervision.maxRestarts`.
    pub allowed: u32,
    /// `supervision.restartWindow`: a run longer than this makes them forgotten.
    pub window: Duration,
}

/// An end of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastExit {
    /// When.
    pub at: Timestamp,
    /// How.
    pub exit: Exit,
    /// How long it had run.
    pub ran: Duration,
    /// The other facts about it.
    pub circumstances: Circumstances,
}

/// The operating system's facts about a run of the worker beside its exit status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// The process that has ended, where there was one.
    pub pid: Option<u32>,
    /// True where it wrote a core dump.
    pub dumped: bool,
    /// The CPU time of the worker and its tasks; `None`: it had no cgroup of its own.
    pub cpu: Option<Duration>,
    /// The number of processes that the kernel killed for lack of memory while it ran.
    pub oom_kills: u64,
}

/// The reason why processes are missing, in an operator's words.
pub fn killed_for_memory(kills: u64) -> String {
    let processes = if kills == 1 { "process" } else { "processes" };
    format!("the kernel killed {kills} {processes} for lack of memory while it ran")
}

/// How new deployments are watched for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeploymentWatch {
    /// What is looked at: `deploymentId`, `launchConfigId`, `shouldWorkerTerminate`.
    pub sources: Vec<&'static str>,
    /// What the run was made from, by source.
    pub values: Vec<(&'static str, String)>,
    /// When it was last looked at.
    pub last_check: Option<Timestamp>,
    /// What came of that: `nothing new`.
    pub result: Option<String>,
}

/// How interruptions are watched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterruptionWatch {
    /// Who is asked: `EC2`, `Azure`, `GCE`.
    pub cloud: &'static str,
    /// When it last answered.
    pub last_answer: Option<Timestamp>,
    /// Why it does not, where it does not.
    pub failure: Option<String>,
    /// Its last notice.
    pub notice: Option<String>,
}

/// Who the worker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownWorker {
    /// The deployment's root URL.
    pub root_url: String,
    /// Its name within the deployment.
    pub identity: WorkerIdentity,
}

/// Tells observers where the runner stands. Never waits for them. Clones tell the same.
#[derive(Clone)]
pub struct StatusPublisher {
    clock: Arc<dyn Clock>,
    board: watch::Sender<StatusBoard>,
    manager: ServiceManager,
    counters: Counters,
    liveness: Liveness,
}

impl fmt::Debug for StatusPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusPublisher").field("board", &*self.board.borrow()).finish_non_exhaustive()
    }
}

impl StatusPublisher {
    /// Begins with [`Phase::Preparing`].
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
            deployment: None,
            interruption: None,
        };
        let (board, manager) = (watch::Sender::new(board), ServiceManager::default());
        Self { clock, board, manager, counters: Counters::default(), liveness: Liveness::default() }
    }

    /// Tells the service manager, too, when it must have patience.
    #[must_use]
    pub fn with_manager(self, manager: ServiceManager) -> Self {
        manager.extend(takes_its_time(self.board.borrow().summary.phase, manager.is_ready()));
        Self { manager, ..self }
    }

    /// The service manager, which is to see that the runner goes on.
    pub fn manager(&self) -> &ServiceManager {
        &self.manager
    }

    /// What is counted, too.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The liveness of the supervisor's loop.
    pub fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    /// For an observer.
    pub fn observe(&self) -> watch::Receiver<StatusBoard> {
        self.board.subscribe()
    }

    /// What the runner is doing now. The same as before is no news.
    pub fn publish(&self, summary: StateSummary) {
        self.board.send_if_modified(|board| {
            let before = board.summary;
            if (before.phase, before.worker_pid) != (summary.phase, summary.worker_pid) {
                board.since = self.clock.now();
            }
            if before.stopped_by != summary.stopped_by {
                board.stopped_since = summary.stopped_by.map(|_| self.clock.now());
            }
            board.summary = summary;
            let news = before != summary;
            if news && before.phase != summary.phase {
                self.manager.extend(takes_its_time(summary.phase, self.manager.is_ready()));
            }
            news
        });
    }

    /// The runner configuration, the provider or the cached run has determined who the worker is.
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

    /// The run that the next worker is started with.
    pub fn publish_run(&self, run: &Run) {
        self.publish_identity(&run.root_url, &run.identity);
        self.board.send_modify(|board| {
            board.credentials_renew = None;
            board.deployment = None;
            board.interruption = None;
        });
        self.publish_credentials(run.credentials.expires);
    }

    /// When the worker's credentials are renewed.
    pub fn publish_renewal(&self, renew: Option<Timestamp>) {
        self.board.send_if_modified(|board| std::mem::replace(&mut board.credentials_renew, renew) != renew);
    }

    /// When the worker's credentials end.
    pub fn publish_credentials(&self, expire: Option<Timestamp>) {
        self.board
            .send_if_modified(|board| std::mem::replace(&mut board.credentials_expire, expire) != expire);
    }

    /// The worker was started.
    pub fn publish_start(&self) {
        self.board.send_modify(|board| {
            let runs = &mut board.runs;
            runs.starts = runs.starts.saturating_add(1);
            runs.restarts = runs.starts.saturating_sub(1);
            self.counters.restarts.store(u64::from(runs.restarts), Ordering::Relaxed);
        });
    }

    /// The worker has ended.
    pub fn publish_exit(&self, exit: Exit, ran: Duration, circumstances: Circumstances) {
        self.counters.exits.count([exit.class.name()]);
        self.counters.oom_kills.fetch_add(circumstances.oom_kills, Ordering::Relaxed);
        let past = PastExit { at: self.clock.now(), exit, ran, circumstances };
        self.board.send_modify(|board| {
            let exits = &mut board.runs.exits;
            if exits.len() == EXITS {
                exits.pop_front();
            }
            exits.push_back(past);
        });
    }

    /// What counts against the restarts that are allowed.
    pub fn publish_crashes(&self, crashes: Crashes) {
        self.board.send_if_modified(|board| std::mem::replace(&mut board.runs.crashes, crashes) != crashes);
    }

    /// What new deployments are looked for in.
    pub fn publish_deployment(&self, watch: DeploymentWatch) {
        self.board.send_modify(|board| board.deployment = Some(watch));
    }

    /// What has come of a look for a new deployment. The same as before is no news.
    pub fn publish_check(&self, sources: Vec<&'static str>, result: String) {
        self.board.send_if_modified(|board| {
            let watch = board.deployment.get_or_insert_default();
            watch.last_check = Some(self.clock.now());
            let news = watch.result.as_ref() != Some(&result) || watch.sources != sources;
            (watch.sources, watch.result) = (sources, Some(result));
            news
        });
    }

    /// Who is asked about interruptions.
    pub fn publish_interruption_watch(&self, cloud: &'static str) {
        let watch = InterruptionWatch { cloud, last_answer: None, failure: None, notice: None };
        self.board.send_modify(|board| board.interruption = Some(watch));
    }

    /// How the last poll went. An answer as before is no news.
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

    /// The cloud gives notice.
    pub fn publish_notice(&self, notice: String) {
        self.board.send_modify(|board| {
            if let Some(watch) = &mut board.interruption {
                watch.notice = Some(notice);
            }
        });
    }
}

/// Whether the service manager must not lose its patience: a start goes on for as long as it takes; a drain and a stop
/// for as long as they may. `ready`: the start is over for it.
fn takes_its_time(phase: Phase, ready: bool) -> bool {
    match phase {
        // Told apart from what is asked of a host that goes down: here the manager waits for nothing.
        Phase::Running | Phase::Holding => false,
        Phase::Preparing | Phase::Starting | Phase::BackingOff | Phase::AwaitingReboot => !ready,
        Phase::Draining | Phase::Stopping | Phase::Killing | Phase::Clearing | Phase::Ended => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::event::{Cause, Reason};

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
