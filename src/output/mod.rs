//! The way of the worker's output, and the sink of the whole log: one plain thread that reads, cuts, renders and writes.
//!
//! The thread reads the worker's stdout and stderr in large blocks, renders output and `log` messages itself, and hands
//! all other messages to the supervisor. The runner's own lines come to it through a bounded queue, so that no two
//! lines mix. A sink that stalls blocks the thread, and through its full pipes the worker; never the supervisor: its
//! lines are dropped when the queue is full, and their number is told later.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc;

use crate::protocol::capabilities::Capabilities;
use crate::protocol::message::FromWorker;

mod last_lines;
mod render;
mod sink;
mod source;
mod thread;

/// The runner's own lines that wait for the sink; more are dropped and counted.
const WAITING_LINES: usize = 1024;

/// Things for the thread to do; there are three for each start of a worker.
const WAITING_COMMANDS: usize = 256;

/// How the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The output thread. Close it to see the last lines written.
#[derive(Debug)]
pub struct Output {
    handle: Handle,
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

/// A worker's pipes in the thread's care.
#[derive(Debug)]
pub struct Attachment {
    id: u64,
    handle: Handle,
}

/// Takes finished lines of the runner's own log.
#[derive(Debug, Clone)]
pub struct LogSink(Handle);

#[derive(Debug, Clone)]
struct Handle {
    queue: std_mpsc::SyncSender<Command>,
    shared: Arc<Shared>,
}

/// What both sides count.
#[derive(Debug)]
struct Shared {
    wake: EventFd,
    next_id: AtomicU64,
    /// Lines in the queue. They leave room for other commands.
    waiting_lines: AtomicUsize,
    dropped_lines: AtomicU64,
}

/// In one queue, so that their order stays.
#[derive(Debug)]
enum Command {
    Line(Vec<u8>),
    Attach { id: u64, pipes: WorkerPipes, events: mpsc::Sender<WorkerEvent> },
    CatchUp { id: u64 },
    Finish { id: u64 },
    Close,
}

impl Output {
    /// Starts the thread; everything goes to `sink` from now on.
    pub fn start(sink: OwnedFd, format: Format) -> io::Result<Self> {
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Arc::new(Shared {
            wake,
            next_id: AtomicU64::new(0),
            waiting_lines: AtomicUsize::new(0),
            dropped_lines: AtomicU64::new(0),
        });
        let (queue, commands) = std_mpsc::sync_channel(WAITING_LINES + WAITING_COMMANDS);
        let (end_sender, ended) = std_mpsc::sync_channel(1);
        let for_thread = shared.clone();
        std::thread::Builder::new().name("output".to_owned()).spawn(move || {
            thread::run(commands, for_thread, sink, format);
            // Nobody may be waiting any more.
            let _ = end_sender.send(());
        })?;
        Ok(Self { handle: Handle { queue, shared }, ended })
    }

    /// Where the runner's own lines go.
    pub fn log_sink(&self) -> LogSink {
        LogSink(self.handle.clone())
    }

    /// Gives a worker's pipes into the thread's care. Never blocks; an error means that the sink has been stalled for
    /// hundreds of workers.
    pub fn attach(&self, pipes: WorkerPipes, events: mpsc::Sender<WorkerEvent>) -> io::Result<Attachment> {
        let id = self.handle.shared.next_id.fetch_add(1, Ordering::Relaxed);
        self.handle.send(Command::Attach { id, pipes, events })?;
        Ok(Attachment { id, handle: self.handle.clone() })
    }

    /// Writes what is waiting, then ends the thread. Gives up after `patience`, where the sink is stalled: `false`.
    pub fn close(self, patience: Duration) -> bool {
        let asked = self.handle.send(Command::Close).is_ok();
        asked && self.ended.recv_timeout(patience).is_ok()
    }
}

impl Attachment {
    /// What the worker has written by now stands before the lines that are logged after this.
    pub fn catch_up(&self) {
        // Full only while the sink is stalled; then the order of lines is the smallest trouble.
        let _ = self.handle.send(Command::CatchUp { id: self.id });
    }

    /// The worker's process is gone: what it wrote is read to its end, whoever else still writes into its pipes; then
    /// [`WorkerEvent::End`] follows.
    pub fn finish(&self) {
        // Full only while the sink is stalled; then the supervisor goes on by its own clock.
        let _ = self.handle.send(Command::Finish { id: self.id });
    }
}

impl LogSink {
    /// Takes a finished line, newline included. Never blocks.
    pub fn line(&self, line: Vec<u8>) {
        let Self(handle) = self;
        let waiting = handle.shared.waiting_lines.fetch_add(1, Ordering::Relaxed);
        if waiting >= WAITING_LINES || handle.send(Command::Line(line)).is_err() {
            handle.shared.waiting_lines.fetch_sub(1, Ordering::Relaxed);
            handle.shared.dropped_lines.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Handle {
    fn send(&self, command: Command) -> io::Result<()> {
        let stalled = |_| io::Error::new(io::ErrorKind::WouldBlock, "the log has been stalled for too long");
        self.queue.try_send(command).map_err(stalled)?;
        // Fails only where the counter is full: then the thread is awake.
        let _ = self.shared.wake.write(1);
        Ok(())
    }
}
