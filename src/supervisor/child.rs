//! One worker process: sends messages and signals, and watches for changes.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id as WaitId, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::start::{Spawned, cannot_lend};
use crate::event::ExitStatus;
use crate::host::terminal::Loan;
use crate::output::{Attachment, Output, WorkerEvent, WorkerPipes};
use crate::protocol::capabilities::Capabilities;
use crate::protocol::message::ToWorker;
use crate::worker::LaunchSpec;

/// Capacity for messages that a worker has not read yet; further ones are dropped with a warning. (The pipe itself
/// holds 64 KiB.)
const UNREAD_MESSAGES: usize = 16;

/// Capacity for events from the output thread.
const WORKER_EVENTS: usize = 64;

/// A worker that lives longer than this after closing its input has done so on purpose.
const STILL_ALIVE: Duration = Duration::from_secs(1);

/// Time limit after the worker's exit for a key typed on its terminal. Stopping the listener process can delay the key.
const TYPED_TIME: Duration = Duration::from_secs(1);

/// A change of the state of a worker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The worker has exited.
    Exited(ExitStatus),
    /// A signal has stopped the worker.
    Stopped {
        signal: Signal,
        /// True if the worker was stopped because it had no terminal, and has been lent one.
        lent: bool,
    },
    /// SIGCONT has continued the worker.
    Continued,
    /// Ctrl-C or Ctrl-\ was typed on the terminal that was lent to the worker.
    Typed(Signal),
}

/// A worker process. Dropping it closes its stdin, but does not terminate the process; the supervisor does that.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    /// SIGCHLD.
    deaths: tokio::signal::unix::Signal,
    pid: u32,
    /// True if the worker's exit wrote a core dump.
    dumped: bool,
    /// Set once the process has been reaped: its pid may be another's.
    exited: Option<Exited>,
    /// The terminal, if it was lent to the worker's process group.
    terminal: Option<Loan>,
    /// True if the terminal was lent to a running worker, which may have been stopped for the lack of it just before.
    lent_late: bool,
    messages: mpsc::Sender<Vec<u8>>,
    attachment: Attachment,
}

#[derive(Debug, Clone, Copy)]
struct Exited {
    status: ExitStatus,
    at: Instant,
}

impl Child {
    /// Takes over a spawned process, and sends it the welcome. Returns the receiver of its events.
    pub(super) fn adopt(
        mut spawned: Spawned,
        spec: &LaunchSpec,
        output: &Output,
        offered: Capabilities,
        keep_last: usize,
    ) -> io::Result<(Self, mpsc::Receiver<WorkerEvent>)> {
        let deaths = signal(SignalKind::child())?;
        let stdin = spawned.take_stdin().map(ChildStdin::from_std).transpose()?;
        let [stdout, stderr] = spawned.take_pipes().ok_or(io::ErrorKind::NotFound)?;
        let (pid, terminal) = (spawned.pid(), spawned.take_terminal());
        // Logged before the worker's first line.
        info!(name: "worker-started", pid, worker = spec.implementation, program = %spawned.program.display(), "worker started");
        let (messages, unread) = mpsc::channel(UNREAD_MESSAGES);
        tokio::spawn(write_messages(stdin, unread));
        let (events, received) = mpsc::channel(WORKER_EVENTS);
        let pipes = WorkerPipes { stdout, stderr, offered, counts_tasks: spec.counts_tasks, keep_last };
        let attachment = output.attach(pipes, events)?;
        let process = spawned.take_process().ok_or(io::ErrorKind::NotFound)?;
        let child = Self {
            process,
            deaths,
            pid,
            dumped: false,
            exited: None,
            terminal,
            lent_late: false,
            messages,
            attachment,
        };
        child.tell(&ToWorker::Welcome { capabilities: offered });
        Ok((child, received))
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn dumped(&self) -> bool {
        self.dumped
    }

    /// Sends a message. Never blocks.
    pub(super) fn tell(&self, message: &ToWorker) {
        if let Err(error) = self.messages.try_send(message.encode()) {
            warn!(pid = self.pid, %error, "worker does not read its input: a message to it is lost");
        }
    }

    /// The queue for messages to the worker, for an answer that comes later. Does not keep the worker's stdin open.
    pub(super) fn inbox(&self) -> mpsc::WeakSender<Vec<u8>> {
        self.messages.downgrade()
    }

    /// Waits for a change. Cancel-safe. Keys typed before the exit are reported before it.
    pub(super) async fn change(&mut self) -> Change {
        loop {
            if self.exited.is_none()
                && let Some(change) = self.look().await
            {
                return change;
            }
            if let Some(Exited { status, at }) = self.exited {
                let typed = tokio::time::timeout_at(at + TYPED_TIME, typed(&mut self.terminal));
                if let Ok(Some(signal)) = typed.await {
                    return Change::Typed(signal);
                }
                // Taken back again when the child is dropped, because a leftover process may have the terminal.
                self.take_terminal();
                return Change::Exited(status);
            }
            tokio::select! {
                biased;
                typed = typed(&mut self.terminal), if self.terminal.is_some() => match typed {
                    Some(signal) => return Change::Typed(signal),
                    // The listener was killed, perhaps together with the worker.
                    None => self.terminal = None,
                },
                // A signal since the last check is still pending.
                Some(()) = self.deaths.recv() => {}
                else => std::future::pending().await,
            }
        }
    }

    /// Checks whether the process has exited, stopped or continued.
    async fn look(&mut self) -> Option<Change> {
        use std::os::unix::process::ExitStatusExt;
        match self.process.try_wait() {
            Ok(Some(status)) => {
                self.dumped = status.core_dumped();
                let status = match (status.code(), status.signal()) {
                    (Some(code), _) => ExitStatus::Code(code),
                    (None, signal) => ExitStatus::Signal(signal.unwrap_or_default()),
                };
                self.exited = Some(Exited { status, at: Instant::now() });
                if let Some(terminal) = &self.terminal {
                    terminal.finish();
                }
                None
            }
            Ok(None) => self.look_for_stop(),
            Err(error) => {
                warn!(pid = self.pid, %error, "cannot wait for the worker; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
                None
            }
        }
    }

    /// Checks for a stop or a continuation. The kernel reports each once. Without `WEXITED`, the exit status is not
    /// consumed.
    fn look_for_stop(&mut self) -> Option<Change> {
        let changes = WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOHANG;
        match waitid(WaitId::Pid(self.group()?), changes) {
            Ok(WaitStatus::Stopped(_, signal)) => {
                let needs_terminal = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
                if needs_terminal {
                    self.lend_terminal();
                }
                let lent = needs_terminal && std::mem::take(&mut self.lent_late);
                Some(Change::Stopped { signal, lent })
            }
            Ok(WaitStatus::Continued(_)) => Some(Change::Continued),
            _ => None,
        }
    }

    /// Lends the terminal to the worker's process group, if the runner's group has it.
    pub(super) fn lend_terminal(&mut self) {
        if let Some(terminal) = &self.terminal {
            self.lent_late |= terminal.lend();
            return;
        }
        let Some(group) = self.group() else { return };
        match Loan::prepare() {
            Ok(terminal) => {
                self.terminal = terminal.filter(|terminal| terminal.lend_to(group));
                self.lent_late |= self.terminal.is_some();
            }
            Err(error) => cannot_lend(&error),
        }
    }

    /// Takes the terminal back from the worker's process group.
    pub(super) fn take_terminal(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.take_back();
        }
    }

    /// The worker's process group, until the worker has been reaped: until then the number cannot be reused.
    fn group(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().filter(|_| self.exited.is_none()).map(Pid::from_raw)
    }

    /// Sends a signal to the worker's process group.
    pub(super) fn signal_group(&self, signal: Signal) {
        let Some(group) = self.group() else { return };
        match killpg(group, signal) {
            Ok(()) => debug!(pid = %group, %signal, "signalled the worker's process group"),
            Err(Errno::ESRCH) => {}
            Err(error) => warn!(pid = %group, %signal, %error, "cannot signal the worker's process group"),
        }
    }

    /// Sends SIGTERM to the worker's process group, and continues its stopped processes so that they can react.
    pub(super) fn terminate_group(&self) {
        self.signal_group(Signal::SIGTERM);
        self.signal_group(Signal::SIGCONT);
    }

    /// Ensures that the worker's output so far is logged before the lines that follow.
    pub(super) fn catch_up(&self) {
        self.attachment.catch_up();
    }

    /// Reads the rest of the exited worker's output; then [`WorkerEvent::End`] follows.
    pub(super) fn finish_output(&self) {
        self.attachment.finish();
    }
}

/// Waits for a key typed on the terminal; `None`: no more will come.
async fn typed(terminal: &mut Option<Loan>) -> Option<Signal> {
    terminal.as_mut()?.typed().await
}

async fn write_messages(stdin: Option<ChildStdin>, mut unread: mpsc::Receiver<Vec<u8>>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(message) = unread.recv().await {
        let Err(error) = stdin.write_all(&message).await else { continue };
        // If the worker has just died, its exit is reported instead: only a live worker has closed its input.
        let dead =
            tokio::time::timeout(STILL_ALIVE, async { while unread.recv().await.is_some() {} }).await.is_ok();
        if !dead {
            warn!(%error, "worker has closed its input: messages to it are lost");
            while unread.recv().await.is_some() {}
        }
        return;
    }
}
