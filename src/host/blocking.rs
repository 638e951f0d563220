//! Calls that a disk, a directory server or the kernel can hang.
//!
//! They never run on the runtime's own thread: a [`Lane`] runs them on threads that exist before the first worker does,
//! because a task's fork bomb can use up every thread that the service may have. Calls of one lane run one at a time,
//! so that a path that hangs occupies one thread, however often it is tried; each caller waits for a limited time.
//!
//! The worker is spawned on the process' main thread ([`MainThread`]): the parent-death signal follows the spawning
//! thread, and the main thread is the one that lives as long as the runner.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::probe::Probe;

/// The threads for blocking calls. One path can hang two lanes (a runtime directory has the lock and the status socket,
/// a state directory the cache and the drain marker), a process that hangs those who look at it one: at least one
/// thread is left for everything else.
pub const THREADS: usize = 3;

/// They wait for work as long as the runner runs.
const KEEP_ALIVE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Time limit for the start of the threads.
const START_TIME: Duration = Duration::from_secs(10);

/// Descriptors that the runtime takes from the kernel at once; it has a handful of descriptors, and keeps room for
/// each.
const IO_EVENTS: usize = 64;

/// Interval at which a waiting caller checks for its turn.
const TURN: Duration = Duration::from_millis(1);

/// Jobs that wait for the main thread: one for each lane that uses it.
const WAITING_JOBS: usize = 4;

/// Makes the runtime. [`start_threads`] makes its threads.
///
/// # Errors
///
/// The kernel refuses a descriptor.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(IO_EVENTS)
        .max_blocking_threads(THREADS)
        .thread_keep_alive(KEEP_ALIVE)
        .thread_name("blocking")
        .build()
}

/// Starts all threads that the runtime will ever have.
///
/// # Errors
///
/// The kernel refuses a thread.
pub fn start_threads(handle: &Handle) -> io::Result<()> {
    // tokio starts a thread when there is a call and no idle thread: each of these calls waits until all are running.
    let gate = Arc::new(RwLock::new(()));
    let closed = gate.write().unwrap_or_else(PoisonError::into_inner);
    let (started, running) = mpsc::channel();
    for _ in 0..THREADS {
        let (gate, started) = (gate.clone(), started.clone());
        quietly(|| {
            handle.spawn_blocking(move || {
                // Where nobody waits for it, it is too late anyway.
                let _ = started.send(());
                drop(gate.read());
            });
        })
        .map_err(|_| io::Error::from_raw_os_error(libc::EAGAIN))?;
        running.recv_timeout(START_TIME).map_err(|_| io::Error::from_raw_os_error(libc::EAGAIN))?;
    }
    drop(closed);
    Ok(())
}

/// tokio panics where the kernel refuses its first blocking thread. The caller makes an error of that.
fn quietly(call: impl FnOnce()) -> Result<(), Box<dyn Any + Send>> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let result = catch_unwind(AssertUnwindSafe(call));
    std::panic::set_hook(hook);
    result
}

/// A call that has not come back in time, or never will.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unanswered {
    /// It is still going on.
    #[error("{what} does not answer within {}; is its disk or server hung?", humantime::format_duration(*.limit))]
    TimedOut {
        /// A path, a user, a host.
        what: String,
        /// The time limit that has passed.
        limit: Duration,
    },
    /// It ended without a result.
    #[error("a part of start-worker has failed while it used {what}")]
    Failed {
        /// A path, a user, a host.
        what: String,
    },
}

impl From<Unanswered> for io::Error {
    fn from(cause: Unanswered) -> Self {
        let kind = match cause {
            Unanswered::TimedOut { .. } => io::ErrorKind::TimedOut,
            Unanswered::Failed { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, cause)
    }
}

/// Calls for one purpose, one at a time. Clones are the same lane.
#[derive(Debug, Clone)]
pub struct Lane {
    turn: Arc<Semaphore>,
    probe: Probe,
    /// `None`: the runtime's blocking threads.
    main_thread: Option<MainThread>,
}

impl Default for Lane {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), probe: Probe::default(), main_thread: None }
    }
}

impl Lane {
    /// A lane whose calls run on the process' main thread.
    pub fn on(main_thread: MainThread) -> Self {
        Self { main_thread: Some(main_thread), ..Self::default() }
    }

    /// Makes a call that uses `path`, and waits for it, and for its turn, for `limit` at most. A call that is given up
    /// goes on, and its result is dropped.
    ///
    /// # Errors
    ///
    /// The call has not come back, or it panicked.
    pub async fn at<T: Send + 'static>(
        &self,
        path: &Path,
        limit: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let (probe, probed, what) = (self.probe.clone(), path.to_owned(), path.display().to_string());
        let call = move || probe.answers(&probed, limit).then(call);
        match self.ask(&what, limit, call).await {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(Unanswered::TimedOut { what, limit }),
            Err(cause) => Err(cause),
        }
    }

    /// Makes a call that uses something else than a path.
    ///
    /// # Errors
    ///
    /// As [`Lane::at`].
    pub async fn ask<T: Send + 'static>(
        &self,
        what: &str,
        limit: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let (answer, answered) = oneshot::channel();
        // In a box: futures that wait for calls stay small.
        let job: Box<dyn FnOnce(OwnedSemaphorePermit) + Send> = Box::new(move |turn| {
            let result = call();
            // The next call may begin before this one's result is looked at.
            drop(turn);
            // Nobody may be waiting any more.
            drop(answer.send(result));
        });
        #[expect(clippy::disallowed_methods, reason = "this is the way to them")]
        let made = async {
            let turn = self.turn.clone().acquire_owned().await.ok()?;
            match &self.main_thread {
                Some(main_thread) => main_thread.run(Box::new(move || job(turn))),
                None => drop(tokio::task::spawn_blocking(move || job(turn))),
            }
            answered.await.ok()
        };
        match tokio::time::timeout(limit, made).await {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(Unanswered::Failed { what: what.to_owned() }),
            Err(_) => Err(Unanswered::TimedOut { what: what.to_owned(), limit }),
        }
    }
}

impl Lane {
    /// Makes a call that takes microseconds, unless somebody hangs it: the caller, a thread of the runtime, waits for
    /// `limit` at most, its turn included. `None`: the call has not come back.
    pub fn now<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let until = Instant::now() + limit;
        let turn = loop {
            match self.turn.clone().try_acquire_owned() {
                Ok(turn) => break turn,
                #[expect(clippy::disallowed_methods, reason = "it is bounded, and the caller cannot await")]
                Err(_) if Instant::now() < until => std::thread::sleep(TURN),
                Err(_) => return None,
            }
        };
        let (answer, answered) = mpsc::sync_channel(1);
        #[expect(clippy::disallowed_methods, reason = "this is the way to them")]
        drop(tokio::task::spawn_blocking(move || {
            let result = call();
            drop(turn);
            // Nobody may be waiting any more.
            drop(answer.send(result));
        }));
        answered.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }
}

/// The lanes of a runner: one for each purpose of a call that can hang.
#[derive(Debug, Clone, Default)]
pub struct Lanes {
    /// The runner configuration.
    pub runner_config: Lane,
    /// The worker's start: `worker.path`, `worker.cwd`.
    pub worker: Lane,
    /// The look-up of `worker.user`: a directory server.
    pub accounts: Lane,
    /// `worker.configPath`.
    pub worker_config: Lane,
    /// The worker pool's `files`.
    pub files: Lane,
    /// `cacheOverRestarts`.
    pub cache: Lane,
    /// The drain marker, in the state directory or beside the cache.
    pub drain_marker: Lane,
    /// The lock in the runtime directory.
    pub lock: Lane,
    /// `status.socket`.
    pub status_socket: Lane,
    /// `autologin.root`.
    pub autologin: Lane,
    /// The look-up of host names.
    pub names: Lane,
    /// The certificates of the certificate authorities.
    pub certificates: Lane,
    /// The service manager's socket.
    pub service_manager: Lane,
}

impl Lanes {
    /// The worker is started by the main thread.
    pub fn new(main_thread: MainThread) -> Self {
        Self { worker: Lane::on(main_thread), ..Self::default() }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The way to the process' main thread.
#[derive(Debug, Clone)]
pub struct MainThread(mpsc::SyncSender<Job>);

/// The main thread's side.
#[derive(Debug)]
pub struct Jobs(mpsc::Receiver<Job>);

impl MainThread {
    /// A way to whichever thread calls [`Jobs::serve`].
    pub fn new() -> (Self, Jobs) {
        let (sender, receiver) = mpsc::sync_channel(WAITING_JOBS);
        (Self(sender), Jobs(receiver))
    }

    fn run(&self, job: Job) {
        // A job that is dropped is one that nobody answers.
        drop(self.0.try_send(job));
    }
}

impl Jobs {
    /// Does what is asked for, until nobody can ask any more.
    pub fn serve(self) {
        for job in self.0 {
            // The caller that waits for it learns that there is no answer.
            drop(catch_unwind(AssertUnwindSafe(job)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn all_threads_exist_before_the_first_call_and_no_more_are_made() {
        let runtime = runtime().unwrap();
        start_threads(runtime.handle()).unwrap();
        let (stuck, released) = mpsc::channel::<()>();
        let released = Arc::new(std::sync::Mutex::new(released));
        let before = threads();
        for _ in 0..THREADS + 3 {
            let released = released.clone();
            runtime.spawn_blocking(move || released.lock().unwrap().recv());
        }
        assert_eq!(threads(), before);
        drop(stuck);
        runtime.block_on(async { Lane::default().ask("x", LONG, || ()).await.unwrap() });
    }

    /// The threads of this process that are named as ours.
    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.trim() == "blocking").count()
    }

    #[test]
    fn a_call_that_hangs_occupies_one_thread_however_often_it_is_tried() {
        let runtime = runtime().unwrap();
        start_threads(runtime.handle()).unwrap();
        let (release, released) = mpsc::channel::<()>();
        runtime.block_on(async {
            let (hung, other) = (Lane::default(), Lane::default());
            let first = hung.at(Path::new("/hung"), SOON, move || released.recv()).await.unwrap_err();
            assert_eq!(first.to_string(), "/hung does not answer within 50ms; is its disk or server hung?");
            for _ in 0..2 * THREADS {
                hung.at(Path::new("/hung"), SOON, || ()).await.unwrap_err();
            }
            for _ in 0..2 * THREADS {
                other.at(Path::new("/"), LONG, || ()).await.unwrap();
            }
            drop(release);
            hung.at(Path::new("/hung"), LONG, || ()).await.unwrap();
        });
    }

    #[tokio::test]
    async fn a_call_that_panics_is_an_error_and_the_lane_goes_on() {
        let (main_thread, jobs) = MainThread::new();
        let serving = std::thread::spawn(|| jobs.serve());
        for lane in [Lane::default(), Lane::on(main_thread)] {
            let fault: Result<(), _> = lane.ask("x", LONG, || panic!("on purpose")).await;
            assert_eq!(fault, Err(Unanswered::Failed { what: "x".to_owned() }));
            assert_eq!(lane.ask("x", LONG, || 5).await, Ok(5));
        }
        serving.join().unwrap();
    }

    #[tokio::test]
    async fn a_caller_that_cannot_wait_gets_no_answer_while_a_call_hangs() {
        let (release, released) = mpsc::channel::<()>();
        let lane = Lane::default();
        assert_eq!(lane.now(LONG, || 5), Some(5));
        assert_eq!(lane.now(SOON, move || released.recv().is_ok()), None);
        assert_eq!(lane.now(SOON, || 5), None);
        drop(release);
        assert_eq!(lane.now(LONG, || 5), Some(5));
    }

    #[tokio::test]
    async fn the_main_threads_calls_run_on_it_one_after_the_other() {
        let (main_thread, jobs) = MainThread::new();
        let serving = std::thread::spawn(|| {
            jobs.serve();
            std::thread::current().id()
        });
        let lane = Lane::on(main_thread);
        let ran_on = lane.ask("x", LONG, || std::thread::current().id()).await.unwrap();
        drop(lane);
        assert_eq!(serving.join().unwrap(), ran_on);
    }
}
