//! Calls that a disk, a directory server or the kernel can hang.
//!
//! They never run on the runtime's own thread: a [`Lane`] runs them on threads that exist before the first worker
//! starts, because a task's fork bomb can use up every thread that the service may have. Calls of one lane run one at a
//! time, so that a path that hangs occupies one thread, however often it is retried. Each caller waits for a limited
//! time.
//!
//! The worker is spawned on the process's main thread ([`MainThread`]): the parent-death signal follows the spawning
//! thread, and the main thread lives as long as the runner.

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

/// The number of threads for blocking calls. One path can hang two lanes (a runtime directory contains the lock and the
/// status socket, a state directory the cache and the drain marker), and a process that hangs its observers blocks one
/// lane. At least one thread remains for everything else.
pub const THREADS: usize = 3;

/// Effectively unlimited: the threads wait for work as long as the runner runs.
const KEEP_ALIVE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Time limit for starting the threads.
const START_TIME: Duration = Duration::from_secs(10);

/// The number of events that the runtime takes from the kernel at once. It reserves memory for each, and has only a
/// handful of descriptors.
const IO_EVENTS: usize = 64;

/// Interval at which a waiting caller checks for its turn.
const TURN: Duration = Duration::from_millis(1);

/// Capacity of the main thread's queue: one job for each lane that uses it.
const WAITING_JOBS: usize = 4;

/// Builds the runtime. [`start_threads`] starts its threads. Fails if the kernel refuses a descriptor.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(IO_EVENTS)
        .max_blocking_threads(THREADS)
        .thread_keep_alive(KEEP_ALIVE)
        .thread_name("blocking")
        .build()
}

/// Starts all threads that the runtime will ever have. Fails if the kernel refuses a thread.
pub fn start_threads(handle: &Handle) -> io::Result<()> {
    // tokio starts a thread when there is a call and no idle thread, so each of these calls blocks until all threads
    // run.
    let gate = Arc::new(RwLock::new(()));
    let closed = gate.write().unwrap_or_else(PoisonError::into_inner);
    let (started, running) = mpsc::channel();
    for _ in 0..THREADS {
        let (gate, started) = (gate.clone(), started.clone());
        quietly(|| {
            handle.spawn_blocking(move || {
                // If the receiver has given up, the start has failed already.
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

/// Contains the panic of tokio when the kernel refuses its first blocking thread. The caller turns it into an error.
fn quietly(call: impl FnOnce()) -> Result<(), Box<dyn Any + Send>> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let result = catch_unwind(AssertUnwindSafe(call));
    std::panic::set_hook(hook);
    result
}

/// A blocking call that has not returned a result.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unanswered {
    /// The call is still running.
    #[error("{what} does not answer within {}; is its disk or server hung?", humantime::format_duration(*.limit))]
    TimedOut {
        /// A path, a user or a host.
        what: String,
        limit: Duration,
    },
    /// The call ended without a result.
    #[error("a part of start-worker has failed while it used {what}")]
    Failed {
        /// A path, a user or a host.
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

/// Runs calls for one purpose, one at a time. Clones share the lane.
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
    /// Creates a lane whose calls run on the process's main thread.
    pub fn on(main_thread: MainThread) -> Self {
        Self { main_thread: Some(main_thread), ..Self::default() }
    }

    /// Makes a call that uses `path`, and waits at most `limit` for its turn and its result. A call that exceeds the
    /// limit continues, and its result is dropped. Fails if the call has not returned, or if it panicked.
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

    /// Makes a call that uses something other than a path. Otherwise as [`Lane::at`].
    pub async fn ask<T: Send + 'static>(
        &self,
        what: &str,
        limit: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let (answer, answered) = oneshot::channel();
        // Boxed, so that the futures that wait for calls stay small.
        let job: Box<dyn FnOnce(OwnedSemaphorePermit) + Send> = Box::new(move |turn| {
            let result = call();
            // The next call may begin before this one's result is handled.
            drop(turn);
            // The caller may have stopped waiting.
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
    /// Makes a call that normally takes microseconds but can be hung by another process. The caller, a thread of the
    /// runtime, blocks for at most `limit`, including the wait for its turn. `None`: the call has not returned.
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
            // The caller may have stopped waiting.
            drop(answer.send(result));
        }));
        answered.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }
}

/// The lanes of a runner: one for each purpose of a call that can hang.
#[derive(Debug, Clone, Default)]
pub struct Lanes {
    pub runner_config: Lane,
    /// The start of the worker: `worker.path`, `worker.cwd`.
    pub worker: Lane,
    /// The look-up of `worker.user`, which can involve a directory server.
    pub accounts: Lane,
    /// `worker.configPath`.
    pub worker_config: Lane,
    /// The worker pool's `files`.
    pub files: Lane,
    /// `cacheOverRestarts`.
    pub cache: Lane,
    /// The drain marker, in the state directory or beside the cache.
    pub drain_marker: Lane,
    /// The record of this run, in the state directory.
    pub last_run: Lane,
    /// The record of failed runs, in the state directory or beside the cache.
    pub failure_log: Lane,
    /// The paths of `hooks.waitFor`.
    pub hook_paths: Lane,
    /// `events.file`.
    pub events: Lane,
    /// The count of runs, in the state directory.
    pub run_count: Lane,
    /// The lock in the runtime directory.
    pub lock: Lane,
    /// `status.socket`.
    pub status_socket: Lane,
    /// `autologin.root`.
    pub autologin: Lane,
    /// Host name resolution.
    pub names: Lane,
    /// Certificates of the certificate authorities.
    pub certificates: Lane,
    /// The service manager's socket.
    pub service_manager: Lane,
}

impl Lanes {
    /// Creates the lanes. The main thread starts the worker.
    pub fn new(main_thread: MainThread) -> Self {
        Self { worker: Lane::on(main_thread), ..Self::default() }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A handle that runs jobs on the process's main thread.
#[derive(Debug, Clone)]
pub struct MainThread(mpsc::SyncSender<Job>);

/// The main thread's end of the queue.
#[derive(Debug)]
pub struct Jobs(mpsc::Receiver<Job>);

impl MainThread {
    /// Creates the handle and the queue for the thread that calls [`Jobs::serve`].
    pub fn new() -> (Self, Jobs) {
        let (sender, receiver) = mpsc::sync_channel(WAITING_JOBS);
        (Self(sender), Jobs(receiver))
    }

    fn run(&self, job: Job) {
        // A dropped job appears to its caller as a call without a result.
        drop(self.0.try_send(job));
    }
}

impl Jobs {
    /// Runs jobs until every handle is dropped.
    pub fn serve(self) {
        for job in self.0 {
            // After a panic, the waiting caller receives no result.
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

    /// Counts the threads of this process that have our thread name.
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
