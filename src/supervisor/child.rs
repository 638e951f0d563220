//! One worker process: told things, signalled, and awaited.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::start::Spawned;
use crate::event::ExitStatus;
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
    exited: bool,
    messages: mpsc::Sender<Vec<u8>>,
    attachment: Attachment,
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
        let pid = spawned.pid();
        // Before its first line.
        info!(pid, worker = spec.implementation, program = %spawned.program.display(), "worker started");
        let (messages, unread) = mpsc::channel(UNREAD_MESSAGES);
        tokio::spawn(write_messages(stdin, unread));
        let (events, received) = mpsc::channel(WORKER_EVENTS);
        let pipes = WorkerPipes { stdout, stderr, offered, counts_tasks: spec.counts_tasks, keep_last };
        let attachment = output.attach(pipes, events)?;
        let process = spawned.take_process().ok_or(io::ErrorKind::NotFound)?;
        let child = Self { process, deaths, pid, dumped: false, exited: false, messages, attachment };
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

    /// Waits for the process to end. May be dropped and called again.
    pub(super) async fn wait(&mut self) -> ExitStatus {
        use std::os::unix::process::ExitStatusExt;
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => {
                    self.exited = true;
                    self.dumped = status.core_dumped();
                    return match (status.code(), status.signal()) {
                        (Some(code), _) => ExitStatus::Code(code),
                        (None, signal) => ExitStatus::Signal(signal.unwrap_or_default()),
                    };
                }
                // A signal that came since the last look is still there.
                Ok(None) if self.deaths.recv().await.is_some() => {}
                Ok(None) => std::future::pending().await,
                Err(error) => {
                    warn!(pid = self.pid, %error, "cannot wait for the worker; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Sends a signal to the worker's process group. The worker has not been waited for, so the group is still its own.
    pub(super) fn signal_group(&self, signal: Signal) {
        let Some(group) = i32::try_from(self.pid).ok().filter(|_| !self.exited) else { return };
        match killpg(Pid::from_raw(group), signal) {
            Ok(()) => debug!(pid = group, %signal, "signalled the worker's process group"),
            Err(Errno::ESRCH) => {}
            Err(error) => warn!(pid = group, %signal, %error, "cannot signal the worker's process group"),
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
