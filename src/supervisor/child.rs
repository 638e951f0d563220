//! One worker process: started, told things, signalled, and awaited.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Gid, Pid, User};
use secrecy::ExposeSecret;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::spawn::{Account, Origin, set_apart};
use crate::event::ExitStatus;
use crate::host::service_manager;
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

/// Why a worker could not be started.
#[derive(Debug, Error)]
pub(super) enum SpawnError {
    /// The program could not be executed.
    #[error("cannot execute {program}: {cause}{hint}; see worker.path")]
    Execute {
        /// The program.
        program: PathBuf,
        /// What the operating system says.
        cause: io::Error,
        /// What that often means.
        hint: &'static str,
    },
    /// `worker.user` names nobody.
    #[error("cannot run the worker as {user:?}: {why}; see worker.user")]
    User {
        /// The name.
        user: String,
        /// What is wrong with it.
        why: String,
    },
    /// The pipes could not be made, or not be handed to the output thread.
    #[error("cannot make the worker's pipes: {0}")]
    Pipes(io::Error),
}

/// A worker process. Dropping it closes its stdin, but does not end it: the supervisor does that.
#[derive(Debug)]
pub(super) struct Child {
    process: tokio::process::Child,
    pid: u32,
    /// True where it ended with a core dump.
    dumped: bool,
    messages: mpsc::Sender<Vec<u8>>,
    attachment: Attachment,
}

impl Child {
    /// Starts the worker, marked with its origin, and welcomes it. The receiver has what it says.
    pub(super) fn spawn(
        spec: &LaunchSpec,
        origin: Origin,
        output: &Output,
        offered: Capabilities,
        keep_last: usize,
    ) -> Result<(Self, mpsc::Receiver<WorkerEvent>), SpawnError> {
        let account = spec.user.as_deref().map(account).transpose()?;
        let mut command = command(spec, account.as_ref());
        command.env(origin.token.0, origin.token.1);
        set_apart(&mut command, account.map(|(account, _)| account), spec.oom_score_adj, origin.cgroup);
        let (stdout, stdout_writer) = pipe().map_err(SpawnError::Pipes)?;
        let (stderr, stderr_writer) = pipe().map_err(SpawnError::Pipes)?;
        command.stdin(Stdio::piped()).stdout(stdout_writer).stderr(stderr_writer);
        let mut command = tokio::process::Command::from(command);
        let mut process = command.spawn().map_err(|cause| execute_error(spec, cause))?;
        // The command holds the pipes' other ends: while it lives there is no end of file.
        drop(command);
        let pid = process.id().unwrap_or_default();
        // Before its first line.
        info!(pid, worker = spec.implementation, program = %spec.program.display(), "worker started");
        // Taken at once: tokio closes an untaken stdin when it waits for the process.
        let stdin = process.stdin.take();
        let (messages, unread) = mpsc::channel(UNREAD_MESSAGES);
        tokio::spawn(write_messages(stdin, unread));
        let (events, received) = mpsc::channel(WORKER_EVENTS);
        let pipes = WorkerPipes { stdout, stderr, offered, counts_tasks: spec.counts_tasks, keep_last };
        let attachment = output.attach(pipes, events).map_err(|cause| {
            // Nobody would hear it, or wait for it.
            let _ = i32::try_from(pid).map(|group| killpg(Pid::from_raw(group), Signal::SIGKILL));
            SpawnError::Pipes(cause)
        })?;
        let child = Self { process, pid, dumped: false, messages, attachment };
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
            match self.process.wait().await {
                Ok(status) => {
                    self.dumped = status.core_dumped();
                    return match (status.code(), status.signal()) {
                        (Some(code), _) => ExitStatus::Code(code),
                        (None, signal) => ExitStatus::Signal(signal.unwrap_or_default()),
                    };
                }
                Err(error) => {
                    warn!(pid = self.pid, %error, "cannot wait for the worker; trying again");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Sends a signal to the worker's process group. The worker has not been waited for, so the group is still its own.
    pub(super) fn signal_group(&self, signal: Signal) {
        let Some(group) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
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

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

fn command(spec: &LaunchSpec, account: Option<&(Account, User)>) -> Command {
    // A path with a slash is meant from where the runner is, wherever the worker starts.
    let program = match spec.program.components().nth(1) {
        Some(_) => std::path::absolute(&spec.program).unwrap_or_else(|_| spec.program.clone()),
        None => spec.program.clone(),
    };
    let mut command = Command::new(program);
    command.args(&spec.args);
    service_manager::hide_from(&mut command);
    if let Some((_, user)) = account {
        command.env("HOME", &user.dir).env("SHELL", &user.shell);
        command.env("USER", &user.name).env("LOGNAME", &user.name);
    }
    for (name, value) in &spec.env {
        command.env(name, value.expose_secret());
    }
    if let Some(folder) = &spec.cwd {
        command.current_dir(folder);
    }
    command
}

/// The account, with all its groups; looked up before the fork, for that reads files.
pub(super) fn account(name: &str) -> Result<(Account, User), SpawnError> {
    let failed = |why: String| SpawnError::User { user: name.to_owned(), why };
    let user = User::from_name(name)
        .map_err(|error| failed(error.to_string()))?
        .ok_or_else(|| failed("no such user on this host".to_owned()))?;
    let c_name = std::ffi::CString::new(name).map_err(|error| failed(error.to_string()))?;
    let groups: Vec<Gid> =
        nix::unistd::getgrouplist(&c_name, user.gid).map_err(|error| failed(error.to_string()))?;
    Ok((Account { uid: user.uid, gid: user.gid, groups }, user))
}

fn execute_error(spec: &LaunchSpec, cause: io::Error) -> SpawnError {
    let exists = spec.program.exists();
    let hint = match cause.kind() {
        io::ErrorKind::NotFound if spec.cwd.as_deref().is_some_and(|folder| !folder.is_dir()) => {
            " (worker.cwd is no folder)"
        }
        _ if spec.program.components().nth(1).is_none() => {
            " (looked up in PATH; for a file in the runner's folder write ./ before it)"
        }
        io::ErrorKind::NotFound if exists => " (the file is there: the interpreter in its first line is not)",
        io::ErrorKind::PermissionDenied if spec.program.is_dir() => " (it is a folder)",
        io::ErrorKind::PermissionDenied if spec.user.is_some() => {
            " (is it executable, may worker.user reach it, and may the runner change its user?)"
        }
        io::ErrorKind::PermissionDenied => " (is it executable?)",
        _ => "",
    };
    SpawnError::Execute { program: spec.program.clone(), cause, hint }
}
