//! The worker's output, and the sink of the whole log: one plain thread reads, splits, renders and writes.
//!
//! The thread reads the worker's stdout and stderr in large blocks, renders output and `log` messages itself, and
//! passes all other messages to the supervisor. While the supervisor's channel is full, the thread reads nothing more
//! from this worker and continues its other work. The runner's own lines arrive through a bounded queue, so that no two
//! lines mix, and are written before further output of the worker. A stalled sink blocks the thread and, through its
//! full pipes, the worker, but never the supervisor: when the queue is full, the runner's lines are dropped, and their
//! number is logged later.

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

/// Capacity for the runner's own lines. When it is exceeded, lines are dropped and counted.
const WAITING_LINES: usize = 512;

/// While this many bytes are waiting, no line is accepted, because a worker's long report makes a long line.
const WAITING_BYTES: usize = 1024 * 1024;

/// Additional capacity of the queue for commands other than lines; each start of a worker needs two.
const WAITING_COMMANDS: usize = 64;

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Human-readable lines.
    Text,
    /// One JSON object a line.
    Json,
    /// Human-readable lines for a journal that reads a pipe: with a priority (`<6>`) and without the time, which the
    /// journal adds.
    Prioritised,
    /// The journal's native protocol: each line is an entry with fields, sent as a datagram.
    Journald,
}

/// The output thread. [`Output::close`] waits until the last lines are written; when this is dropped, the thread ends
/// by itself some time later.
#[derive(Debug)]
pub struct Output {
    handle: Handle,
    next_id: AtomicU64,
    ended: std_mpsc::Receiver<()>,
}

/// The runner's ends of a worker's pipes.
#[derive(Debug)]
pub struct WorkerPipes {
    /// Output and protocol messages.
    pub stdout: OwnedFd,
    /// Output only.
    pub stderr: OwnedFd,
    /// The capabilities in the runner's `welcome`.
    pub offered: Capabilities,
    /// True if the worker's log records show when tasks start and finish.
    pub counts_tasks: bool,
    /// The number of last lines to keep for [`WorkerEvent::End`].
    pub keep_last: usize,
}

/// An event in a worker's output that concerns the supervisor.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerEvent {
    /// A valid message whose capability is in force. The capabilities in a hello are those in force.
    Message(FromWorker),
    /// Error reports that arrived too fast and were not passed on.
    ReportsDropped { count: u64 },
    /// A log record reported the start of a task.
    TaskStarted,
    /// A log record reported the end of a task.
    TaskFinished,
    /// The worker's output has been read to the end.
    End {
        /// The last lines as they were logged, oldest first.
        last_lines: Vec<String>,
    },
}

/// A worker's pipes, read by the thread. Dropping this is equivalent to [`Attachment::finish`].
#[derive(Debug)]
#[must_use = "dropped, it ends the worker's output"]
pub struct Attachment {
    id: u64,
    /// Not sent through the queue, because it must not be lost when the queue is full.
    finished: Arc<AtomicBool>,
    handle: Handle,
}

/// Accepts finished lines of the runner's own log.
#[derive(Debug, Clone)]
pub struct LogSink(Handle);

/// Reads the thread's counters. Clones read the same counters.
#[derive(Debug, Clone)]
pub struct OutputCounters(Arc<Shared>);

/// The thread's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines written by workers, including messages.
    pub worker_lines: u64,
    /// Bytes written by workers.
    pub worker_bytes: u64,
    /// The time of a worker's most recent output; `None`: no worker has written anything yet.
    pub last_output: Option<Timestamp>,
    /// Lines of the runner's own log that were dropped because the log was stalled.
    pub dropped_lines: u64,
    /// Bytes of the log that could not be written.
    pub lost_bytes: u64,
}

impl OutputCounters {
    /// The current values.
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

/// The state that the thread and its handles share.
#[derive(Debug)]
struct Shared {
    wake: EventFd,
    /// Lines in the queue, or taken from it and not rendered yet. The limit keeps room for other commands.
    waiting_lines: AtomicUsize,
    /// The total size of these lines, in bytes.
    waiting_bytes: AtomicUsize,
    /// The total number of lines dropped because the queue was full.
    dropped_lines: AtomicU64,
    /// The total number of lines written by workers, updated once a block.
    worker_lines: AtomicU64,
    /// The total size of these lines, in bytes.
    worker_bytes: AtomicU64,
    /// The time of a worker's most recent output, in milliseconds since the epoch; 0: none yet.
    last_output: AtomicI64,
    /// The total number of bytes of the log that could not be written.
    lost_bytes: AtomicU64,
    /// Set when no worker will be attached any more and no line follows.
    closing: AtomicBool,
    /// The worker's identity, once it is known. Set once, so that reading it takes no lock.
    identity: Arc<OnceLock<Identity>>,
}

/// The queue's content. A single queue preserves the order.
#[derive(Debug)]
enum Command {
    Line(Vec<u8>),
    /// Boxed, because the queue's slots are as large as the largest command.
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
    /// Starts the thread, which writes everything to `sink` from now on. The thread uses the caller's `tracing`
    /// dispatcher or, if there is none yet, the one that is installed later. Fails if the system refuses an eventfd or
    /// a thread.
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
            // The receiver may be gone.
            let _ = end_sender.send(());
        })?;
        Ok(Self { handle: Handle { queue, shared }, next_id: AtomicU64::new(0), ended })
    }

    /// The sink for the runner's own lines.
    pub fn log_sink(&self) -> LogSink {
        LogSink(self.handle.clone())
    }

    /// A reader of the thread's counters.
    pub fn counters(&self) -> OutputCounters {
        OutputCounters(self.handle.shared.clone())
    }

    /// Passes a worker's pipes to the thread. Their content is logged at once, and events for the supervisor go to
    /// `events`. While that channel is full, nothing is read from the pipes. Never blocks. Fails if the sink has been
    /// stalled for the starts of many workers.
    pub fn attach(&self, pipes: WorkerPipes, events: mpsc::Sender<WorkerEvent>) -> io::Result<Attachment> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let finished = Arc::new(AtomicBool::new(false));
        let worker = NewWorker { id, pipes, events, finished: finished.clone() };
        self.handle.send(Command::Attach(Box::new(worker)))?;
        Ok(Attachment { id, finished, handle: self.handle.clone() })
    }

    /// Finishes all workers, writes the waiting lines, and ends the thread. Returns false if that takes longer than
    /// `patience`, because the sink is stalled or a worker's events are not received.
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
    /// Ensures that everything that the worker has written so far is logged before the lines that follow.
    pub fn catch_up(&self) {
        // The queue is only full while the sink is stalled; the order of lines is then the smallest problem.
        let _ = self.handle.send(Command::CatchUp { id: self.id });
    }

    /// Reports that the worker's process has exited. Its remaining output is read, even if other processes still write
    /// to its pipes; then [`WorkerEvent::End`] follows. While the sink is stalled, that is delayed.
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
    /// Marks all later records with this worker's identity. Only the first call has an effect, because a runner has one
    /// worker.
    pub fn identify(&self, identity: Identity) {
        let _ = self.0.shared.identity.set(identity);
    }

    /// The worker's identity, once it is known.
    pub fn identity(&self) -> Option<&Identity> {
        self.0.shared.identity.get()
    }

    /// Returns true if at least half of the queue is free.
    pub fn has_room(&self) -> bool {
        let shared = &self.0.shared;
        shared.waiting_lines.load(Ordering::Relaxed) < WAITING_LINES / 2
            && shared.waiting_bytes.load(Ordering::Relaxed) < WAITING_BYTES / 2
    }

    /// Accepts a finished debug line, or a line that repeats the worker's output, including its newline. Such lines use
    /// at most half of the queue, so that others always find room.
    pub fn line_of_less_weight(&self, line: Vec<u8>) {
        if self.has_room() {
            self.line(line);
        } else {
            self.0.shared.dropped_lines.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Accepts a finished line, including its newline. Never blocks: while too much is waiting, the line is dropped and
    /// counted.
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

/// Wakes the thread when the supervisor's channel has room again.
impl std::task::Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_up();
    }
}

impl Shared {
    fn wake_up(&self) {
        // Fails only if the counter is full, and then the thread is awake.
        let _ = self.wake.write(1);
    }

    /// Counts output that was read from a worker.
    fn read(&self, lines: u64, bytes: usize) {
        if bytes > 0 {
            self.last_output.store(Timestamp::now().as_millisecond(), Ordering::Relaxed);
        }
        self.worker_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        // Released last: an observer that sees this value sees the other ones, too.
        self.worker_lines.fetch_add(lines, Ordering::Release);
    }

    /// Accounts for a line of this many bytes that was rendered or dropped.
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
