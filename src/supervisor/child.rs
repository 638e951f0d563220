//! One worker process: told things, signalled, and watched.

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

/// Messages that a worker has not read yet; more are dropped with a warning. (The pipe itself holds 64 KiB.)
const UNREAD_MESSAGES: usize = 16;

/// What the output thread may send before it waits for the supervisor.
const WORKER_EVENTS: usize = 64;

/// A worker that has closed its input, and lives longer than this, has done so on purpose.
const STILL_ALIVE: Duration = Duration::from_secs(1);

/// How long after the worker's exit what was typed on its terminal is waited for. Stopping the process that passes it
/// on can delay it.
const TYPED_TIME: Duration = Duration::from_secs(1);

/// A change of the state of a worker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It has ended.
    Exited(ExitStatus),
    /// A signal has stopped it.
    Stopped {
        signal: Signal,
        /// It stopped because it had no terminal, and has been lent one.
        lent: bool,
    },
    /// SIGCONT has continued it.
    Continued,
    /// Ctrl-C or Ctrl-\ was typed on the terminal that it was lent.
    Typed(Signal),
}

/// A worker process. Dropping it closes its stdin, but does not end it: the supervisor does that.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    /// SIGCHLD.
    deaths: tokio::signal::unix::Signal,
    pid: u32,
    /// True where it ended with a core dump.
    dumped: bool,
    /// It has been reaped: its pid may be another's.
    exited: Option<Exited>,
    /// The terminal, where its process group was lent it.
    terminal: Option<Loan>,
    /// It was lent to a worker that ran already, which may have been stopped for want of it just before.
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
    /// Looks after a process that was spawned, and welcomes it. The receiver has what it says.
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
        // Before its first line.
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

    /// Sends a message; never blocks.
    pub(super) fn tell(&self, message: &ToWorker) {
        if let Err(error) = self.messages.try_send(message.encode()) {
            warn!(pid = self.pid, %error, "worker does not read its input: a message to it is lost");
        }
    }

    /// Where messages to it go, for an answer that comes later. It does not keep its stdin open.
    pub(super) fn inbox(&self) -> mpsc::WeakSender<Vec<u8>> {
        self.messages.downgrade()
    }

    /// Waits until something changes. May be dropped and called again. What was typed before the exit comes before it.
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
                // Once more when the child is dropped: a process that the worker left behind may have the terminal.
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
                // A signal that came since the last look is still there.
                Some(()) = self.deaths.recv() => {}
                else => std::future::pending().await,
            }
        }
    }

    /// Looks whether the process has ended, was stopped or continued.
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

    /// The kernel tells of the last stop or continuation, once. Without `WEXITED` the exit status stays where it is.
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

    /// Lends the terminal to the worker's process group, where the runner's group has it.
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

    /// The worker's process group, while the worker has not been waited for: until then the group is its own.
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

    /// Sends SIGTERM to the worker's process group, and lets those of it that are stopped act on it.
    pub(super) fn terminate_group(&self) {
        self.signal_group(Signal::SIGTERM);
        self.signal_group(Signal::SIGCONT);
    }

    /// What it has written stands in the log before what is logged from now on.
    pub(super) fn catch_up(&self) {
        self.attachment.catch_up();
    }

    /// The process is gone: its output is read to its end, and [`WorkerEvent::End`] follows.
    pub(super) fn finish_output(&self) {
        self.attachment.finish();
    }
}

/// Waits for what is typed on the terminal; `None`: there will be nothing more.
async fn typed(terminal: &mut Option<Loan>) -> Option<Signal> {
    terminal.as_mut()?.typed().await
}

async fn write_messages(stdin: Option<ChildStdin>, mut unread: mpsc::Receiver<Vec<u8>>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(message) = unread.recv().await {
        let Err(error) = stdin.write_all(&message).await else { continue };
        // A worker that has just died is told about by its exit: only one that lives on has closed its input.
        let dead =
            tokio::time::timeout(STILL_ALIVE, async { while unread.recv().await.is_some() {} }).await.is_ok();
        if !dead {
            warn!(%error, "worker has closed its input: messages to it are lost");
            while unread.recv().await.is_some() {}
        }
        return;
    }
}
