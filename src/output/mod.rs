//! The way of the worker's output, and the sink of the whole log: one plain thread that reads, cuts, renders and writes.
//!
//! The thread reads the worker's stdout and stderr in large blocks, renders output and `log` messages itself, and hands
//! all other messages to the supervisor. The runner's own lines come to it through a bounded queue, so that no two
//! lines mix. A sink that stalls blocks the thread, and through its full pipes the worker; never the supervisor: its
//! lines are dropped when the queue is full, and their number is told later.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// Things for the thread to do; there are two for each start of a worker.
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
    lines: LogSink,
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
pub struct LogSink {
    lines: std_mpsc::SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
    wake: Arc<EventFd>,
}

#[derive(Debug, Clone)]
struct Handle {
    commands: std_mpsc::SyncSender<Command>,
    next_id: Arc<AtomicU64>,
    wake: Arc<EventFd>,
}

#[derive(Debug)]
enum Command {
    Attach { id: u64, pipes: WorkerPipes, events: mpsc::Sender<WorkerEvent> },
    Finish { id: u64 },
    Close,
}

impl Output {
    /// Starts the thread; everything goes to `sink` from now on.
    pub fn start(sink: OwnedFd, format: Format) -> io::Result<Self> {
        let wake =
            Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let dropped = Arc::new(AtomicU64::new(0));
        let (command_sender, commands) = std_mpsc::sync_channel(WAITING_COMMANDS);
        let (line_sender, lines) = std_mpsc::sync_channel(WAITING_LINES);
        let (end_sender, ended) = std_mpsc::sync_channel(1);
        let inputs = thread::Inputs { commands, lines, dropped: dropped.clone(), wake: wake.clone() };
        std::thread::Builder::new().name("output".to_owned()).spawn(move || {
            thread::run(inputs, sink, format);
            // Nobody may be waiting any more.
            let _ = end_sender.send(());
        })?;
        let handle = Handle { commands: command_sender, next_id: Arc::default(), wake: wake.clone() };
        Ok(Self { handle, lines: LogSink { lines: line_sender, dropped, wake }, ended })
    }

    /// Where the runner's own lines go.
    pub fn log_sink(&self) -> LogSink {
        self.lines.clone()
    }

    /// Gives a worker's pipes into the thread's care. Never blocks; an error means that the sink has been stalled for
    /// hundreds of workers.
    pub fn attach(&self, pipes: WorkerPipes, events: mpsc::Sender<WorkerEvent>) -> io::Result<Attachment> {
        let id = self.handle.next_id.fetch_add(1, Ordering::Relaxed);
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
    /// The worker's process is gone: what is in its pipes is read, for 1 s at most where somebody else still writes
    /// into them; then [`WorkerEvent::End`] follows.
    pub fn finish(&self) {
        // Full only while the sink is stalled; then the supervisor goes on by its own clock.
        let _ = self.handle.send(Command::Finish { id: self.id });
    }
}

impl LogSink {
    /// Takes a finished line, newline included. Never blocks.
    pub fn line(&self, line: Vec<u8>) {
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        wake_up(&self.wake);
    }
}

impl Handle {
    fn send(&self, command: Command) -> io::Result<()> {
        let stalled = |_| io::Error::new(io::ErrorKind::WouldBlock, "the log has been stalled for too long");
        self.commands.try_send(command).map_err(stalled)?;
        wake_up(&self.wake);
        Ok(())
    }
}

fn wake_up(wake: &EventFd) {
    // Fails only where the counter is full: then the thread is awake.
    let _ = wake.write(1);
}
