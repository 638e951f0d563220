//! The way of the worker's output, and the sink of the whole log: one plain thread that reads, cuts, renders and writes.
//!
//! The thread reads the worker's stdout and stderr in large blocks, renders output and `log` messages itself, and hands
//! all other messages to the supervisor; while that has no room for them, the thread reads nothing more from this worker
//! and does everything else. The runner's own lines come to it through a bounded queue, so that no two lines mix, and are
//! written before more of the worker's output is. A sink that stalls blocks the thread, and through its full pipes the
//! worker; never the supervisor: its lines are dropped when the queue is full, and their number is told later.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc;
use tracing::dispatcher;
use tracing::subscriber::NoSubscriber;

use crate::protocol::capabilities::Capabilities;
use crate::protocol::message::FromWorker;

pub use identity::{BEGINS_ENTRY, Identity};

mod complaints;
mod identity;
mod last_lines;
pub mod render;
mod sink;
mod source;
mod speaker;
mod stream;
mod thread;

/// The runner's own lines that wait for the sink; more are dropped and counted.
const WAITING_LINES: usize = 512;

/// No line is taken while so many bytes are waiting: a worker's long report makes a long line.
const WAITING_BYTES: usize = 1024 * 1024;

/// Room in the queue for other commands than lines; there are two for each start of a worker.
const WAITING_COMMANDS: usize = 64;

/// How the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
    /// Lines for people that a journal reads from a pipe: a priority (`<6>`) and no time, for it has its own.
    Prioritised,
    /// The journal's own protocol: an entry with fields a line, each a datagram.
    Journald,
}

/// The output thread. Close it to see the last lines written; dropped, it ends by itself, at some later time.
#[derive(Debug)]
pub struct Output {
    handle: Handle,
    next_id: AtomicU64,
    ended: std_mpsc::Receiver<()>,
}

/// What a worker writes into, seen from the runner's side.
#[derive(Debug)]
pub struct WorkerPipes {
    /// Output and protocol messages.
    pub stdout: OwnedFd,
    /// Output alone.
    pub stderr: OwnedFd,
    /// The capabilities in the runner's `welcome`.
    pub offered: Capabilities,
    /// Whether the worker's log records tell when tasks start and finish.
    pub counts_tasks: bool,
    /// How many of its last lines are kept for [`WorkerEvent::End`].
    pub keep_last: usize,
}

/// What the supervisor learns of a worker's output.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerEvent {
    /// A valid message whose capability is in force; in a hello, the capabilities are those in force.
    Message(FromWorker),
    /// So many error reports came within so short a time that they are not handed on.
    ReportsDropped {
        /// How many.
        count: u64,
    },
    /// A log record told of a task that started.
    TaskStarted,
    /// A log record told of a task that finished.
    TaskFinished,
    /// Its output is read to the end.
    End {
        /// The last lines, as they went into the log, oldest first.
        last_lines: Vec<String>,
    },
}

/// A worker's pipes in the thread's care. Dropped, it is as if it were finished.
#[derive(Debug)]
#[must_use = "dropped, it ends the worker's output"]
pub struct Attachment {
    id: u64,
    /// Not in the queue: it must not be lost when that is full.
    finished: Arc<AtomicBool>,
    handle: Handle,
}

/// Takes finished lines of the runner's own log.
#[derive(Debug, Clone)]
pub struct LogSink(Handle);

/// Tells what has gone through the thread so far. Clones tell the same.
#[derive(Debug, Clone)]
pub struct OutputCounters(Arc<Shared>);

/// What has gone through the thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines that workers have written, messages included.
    pub worker_lines: u64,
    /// What workers have written, in bytes.
    pub worker_bytes: u64,
    /// The time at which a worker last wrote something; `None`: none has yet.
    pub last_output: Option<Timestamp>,
    /// Lines of the runner's own log that were dropped because the log was stalled.
    pub dropped_lines: u64,
    /// Bytes of the log that could not be written.
    pub lost_bytes: u64,
}

impl OutputCounters {
    /// By now.
    pub fn now(&self) -> Counts {
        let Self(shared) = self;
        Counts {
            worker_lines: shared.worker_lines.load(Ordering::Acquire),
            worker_bytes: shared.worker_bytes.load(Ordering::Relaxed),
            last_output: Timestamp::from_millisecond(shared.last_output.load(Ordering::Relaxed))
                .ok()
                .filter(|at| *at != Timestamp::UNIX_EPOCH),
            dropped_lines: shared.dropped_lines.load(Ordering::Relaxed),
            lost_bytes: shared.lost_bytes.load(Ordering::Relaxed),
        }
    }
}

#[derive(Debug, Clone)]
struct Handle {
    queue: std_mpsc::SyncSender<Command>,
    shared: Arc<Shared>,
}

/// What both sides see.
#[derive(Debug)]
struct Shared {
    wake: EventFd,
    /// Lines in the queue, or taken out of it and not rendered. They leave room for other commands.
    waiting_lines: AtomicUsize,
    /// What they are together, in bytes.
    waiting_bytes: AtomicUsize,
    /// Lines that there was no room for, ever.
    dropped_lines: AtomicU64,
    /// Lines that workers have written, ever; counted once a block.
    worker_lines: AtomicU64,
    /// What they were together, in bytes.
    worker_bytes: AtomicU64,
    /// The time at which a worker last wrote something, in milliseconds since the epoch; 0: none has.
    last_output: AtomicI64,
    /// Bytes of the log that could not be written, ever.
    lost_bytes: AtomicU64,
    /// No worker will be attached any more, and no line follows.
    closing: AtomicBool,
    /// Whose log it is, once that is known. Set once: reading it takes no lock.
    identity: Arc<OnceLock<Identity>>,
}

/// In one queue, so that their order stays.
#[derive(Debug)]
enum Command {
    Line(Vec<u8>),
    /// Boxed, for the queue's places are as large as the largest command.
    Attach(Box<NewWorker>),
    CatchUp {
        id: u64,
    },
}

/// A worker whose output is to be read.
#[derive(Debug)]
struct NewWorker {
    id: u64,
    pipes: WorkerPipes,
    events: mpsc::Sender<WorkerEvent>,
    finished: Arc<AtomicBool>,
}

impl Output {
    /// Starts the thread; everything goes to `sink` from now on. The thread logs what it has to say where the caller
    /// does: with its `tracing` dispatcher, or, where it has none yet, with the one that is installed later.
    ///
    /// # Errors
    ///
    /// The system has no eventfd or no thread to give.
    pub fn start(sink: OwnedFd, format: Format) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            wake: EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            waiting_lines: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            dropped_lines: AtomicU64::new(0),
            worker_lines: AtomicU64::new(0),
            worker_bytes: AtomicU64::new(0),
            last_output: AtomicI64::new(0),
            lost_bytes: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            identity: Arc::default(),
        });
        let (queue, commands) = std_mpsc::sync_channel(WAITING_LINES + WAITING_COMMANDS);
        let (end_sender, ended) = std_mpsc::sync_channel(1);
        let for_thread = shared.clone();
        let dispatch = dispatcher::get_default(Clone::clone);
        std::thread::Builder::new().name("output".to_owned()).spawn(move || {
            if dispatch.is::<NoSubscriber>() {
                thread::run(commands, for_thread, sink, format);
            } else {
                dispatcher::with_default(&dispatch, || thread::run(commands, for_thread, sink, format));
            }
            // Nobody may be waiting any more.
            let _ = end_sender.send(());
        })?;
        Ok(Self { handle: Handle { queue, shared }, next_id: AtomicU64::new(0), ended })
    }

    /// Where the runner's own lines go.
    pub fn log_sink(&self) -> LogSink {
        LogSink(self.handle.clone())
    }

    /// For an observer.
    pub fn counters(&self) -> OutputCounters {
        OutputCounters(self.handle.shared.clone())
    }

    /// Gives a worker's pipes into the thread's care. What is read from them goes to the log at once, and what the
    /// supervisor has to know to `events`. While that is full, nothing is read from them.
    ///
    /// # Errors
    ///
    /// The sink has been stalled for many workers. Never blocks.
    pub fn attach(&self, pipes: WorkerPipes, events: mpsc::Sender<WorkerEvent>) -> io::Result<Attachment> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let finished = Arc::new(AtomicBool::new(false));
        let worker = NewWorker { id, pipes, events, finished: finished.clone() };
        self.handle.send(Command::Attach(Box::new(worker)))?;
        Ok(Attachment { id, finished, handle: self.handle.clone() })
    }

    /// Finishes all workers, writes what is waiting, then ends the thread: `true`. Gives up after `patience`, where the
    /// sink is stalled or somebody has stopped to receive a worker's events: `false`.
    pub fn close(self, patience: Duration) -> bool {
        self.begin_closing();
        self.ended.recv_timeout(patience).is_ok()
    }

    fn begin_closing(&self) {
        self.handle.shared.closing.store(true, Ordering::Release);
        self.handle.wake_up();
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.begin_closing();
    }
}

impl Attachment {
    /// What the worker has written by now stands before the lines that are logged after this.
    pub fn catch_up(&self) {
        // Full only while the sink is stalled; then the order of lines is the smallest trouble.
        let _ = self.handle.send(Command::CatchUp { id: self.id });
    }

    /// The worker's process is gone: what it wrote is read to its end, whoever else still writes into its pipes; then
    /// [`WorkerEvent::End`] follows. While the sink is stalled, that takes until it moves again.
    pub fn finish(&self) {
        self.finished.store(true, Ordering::Release);
        self.handle.wake_up();
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.finish();
    }
}

impl LogSink {
    /// Marks all later records as this worker's. Only the first call counts: one runner has one worker.
    pub fn identify(&self, identity: Identity) {
        let _ = self.0.shared.identity.set(identity);
    }

    /// Whose log it is, once that is known.
    pub fn identity(&self) -> Option<&Identity> {
        self.0.shared.identity.get()
    }

    /// Whether hundreds of lines more would find room.
    pub fn has_room(&self) -> bool {
        let shared = &self.0.shared;
        shared.waiting_lines.load(Ordering::Relaxed) < WAITING_LINES / 2
            && shared.waiting_bytes.load(Ordering::Relaxed) < WAITING_BYTES / 2
    }

    /// Takes a finished line of debugging, or one that repeats what the worker has said, newline included: it gets half of
    /// the room at most, so that the others always find some.
    pub fn line_of_less_weight(&self, line: Vec<u8>) {
        if self.has_room() {
            self.line(line);
        } else {
            self.0.shared.dropped_lines.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a finished line, newline included. Never blocks: while too much is waiting, it is dropped and counted.
    pub fn line(&self, line: Vec<u8>) {
        let shared = &self.0.shared;
        let bytes = line.len();
        let lines_before = shared.waiting_lines.fetch_add(1, Ordering::Relaxed);
        let bytes_before = shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let room = lines_before < WAITING_LINES && bytes_before < WAITING_BYTES;
        if !room || self.0.send(Command::Line(line)).is_err() {
            shared.waits_no_more(bytes);
            shared.dropped_lines.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Wakes the thread when the supervisor has room again.
impl std::task::Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_up();
    }
}

impl Shared {
    fn wake_up(&self) {
        // Fails only where the counter is full: then the thread is awake.
        let _ = self.wake.write(1);
    }

    /// A worker has written this.
    fn read(&self, lines: u64, bytes: usize) {
        if bytes > 0 {
            self.last_output.store(Timestamp::now().as_millisecond(), Ordering::Relaxed);
        }
        self.worker_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        // An observer that sees these lines sees the rest.
        self.worker_lines.fetch_add(lines, Ordering::Release);
    }

    /// A line of so many bytes was rendered, or dropped.
    fn waits_no_more(&self, bytes: usize) {
        self.waiting_lines.fetch_sub(1, Ordering::Relaxed);
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Handle {
    fn send(&self, command: Command) -> io::Result<()> {
        let stalled = |_| io::Error::new(io::ErrorKind::WouldBlock, "the log has been stalled for too long");
        self.queue.try_send(command).map_err(stalled)?;
        self.wake_up();
        Ok(())
    }

    fn wake_up(&self) {
        self.shared.wake_up();
    }
}

#[cfg(test)]
mod tests;
