//! The start of a worker, outside the supervisor's loop: looks up its account, writes its files and executes its
//! program. Each step can hang, so each has a time limit; and each can fail for a temporary reason.

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Gid, Pid, User};
use secrecy::ExposeSecret;
use thiserror::Error;
use tracing::{error, warn};

use super::child::Child;
use super::hooks::HookError;
use super::spawn::{Account, Entrances, Origin, set_apart};
use super::{LAST_LINES, Supervisor};
use crate::error_chain::ErrorChain;
use crate::event::Event;
use crate::host::atomic::{Owner, WriteError};
use crate::host::blocking::{Lanes, Unanswered};
use crate::host::helper::{self, Helpers, Starting};
use crate::host::terminal::Loan;
use crate::host::{cgroup, execute, mounts, service_manager};
use crate::worker::LaunchSpec;

/// Time limit of a file system, a program or a directory server.
pub(super) const TIME: Duration = Duration::from_secs(30);

/// Errors that may be temporary: a program that is being replaced, a full process or file table, a full disk, a file
/// server that is being restarted.
const PASSING: [Errno; 14] = [
    Errno::ETXTBSY,
    Errno::EAGAIN,
    Errno::ENOMEM,
    Errno::ENOSPC,
    Errno::EDQUOT,
    Errno::EMFILE,
    Errno::ENFILE,
    Errno::EINTR,
    Errno::EBUSY,
    Errno::EIO,
    Errno::ESTALE,
    Errno::ETIMEDOUT,
    Errno::ENOTCONN,
    Errno::EHOSTDOWN,
];

/// The reason why a worker could not be started.
#[derive(Debug, Error)]
pub(super) enum StartError {
    #[error("the worker's configuration cannot be written; see worker.configPath")]
    Configuration(#[from] WriteError),
    #[error("cannot execute {program}: {cause}{hint}; see worker.path")]
    Execute {
        program: PathBuf,
        /// The usual cause.
        hint: String,
        cause: io::Error,
    },
    /// `worker.user` does not exist, or cannot be looked up.
    #[error("cannot run the worker as {user:?}: {cause}; see worker.user")]
    User { user: String, cause: io::Error },
    /// The pipes could not be created, or not be passed to the output thread.
    #[error("cannot make the worker's pipes")]
    Pipes(#[source] io::Error),
    /// `hooks.beforeStart` has failed.
    #[error("hooks.beforeStart has failed: {0}")]
    Hook(HookError),
    /// Something has not answered in time.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

impl StartError {
    /// Returns true if the start was given up before it failed, because it was no longer wanted.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(self, Self::Hook(HookError::GivenUp))
    }

    /// Returns true if the reason may pass by itself.
    pub(super) fn passes(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = match self {
            Self::Unanswered(cause) => return matches!(cause, Unanswered::TimedOut { .. }),
            // The host may be fit for a worker later.
            Self::Hook(_) => return true,
            Self::Execute { cause, .. } | Self::User { cause, .. } => Some(cause),
            Self::Configuration(_) | Self::Pipes(_) => Some(self),
        };
        while let Some(error) = cause {
            let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            if let Some(code) = code {
                return PASSING.contains(&Errno::from_raw(code));
            }
            cause = error.source();
        }
        false
    }
}

impl Supervisor<'_> {
    /// Writes the worker's configuration outside the loop.
    pub(super) fn prepare(&mut self) -> Option<Event> {
        let hooks = self.hooks.before_start();
        if hooks.is_none() && self.spec.config_file.is_none() {
            return Some(Event::Prepared);
        }
        // A hook that is given up is waited for at the end, so that its processes are gone.
        let hooks = hooks.map(|hooks| self.at_the_end.track_future(hooks));
        let write = write_configuration(self.spec.clone(), self.job.lanes.clone());
        self.preparing = Some(tokio::spawn(async move {
            if let Some(hooks) = hooks {
                hooks.await?;
            }
            write.await
        }));
        None
    }

    /// Executes the worker outside the loop.
    pub(super) fn execute(&mut self) {
        self.last_lines.clear();
        self.oom_kills_before = cgroup::oom_kills();
        let marks = (self.descendants.origin(), self.descendants.helpers());
        let execute = execute(self.spec.clone(), marks, self.job.lanes.clone());
        self.spawning = Some(tokio::spawn(execute));
    }

    /// Takes over a worker that has been executed.
    pub(super) fn adopt(&mut self, spawned: Result<Spawned, StartError>) -> Event {
        let keep_last =
            LAST_LINES.max(usize::try_from(self.job.supervision.report_output_lines).unwrap_or(LAST_LINES));
        let adopted = spawned.and_then(|spawned| {
            Child::adopt(spawned, &self.spec, self.output, self.job.offered, keep_last)
                .map_err(StartError::Pipes)
        });
        match adopted {
            Ok((child, said)) => {
                let pid = child.pid();
                self.descendants.worker_started(pid);
                self.child = Some(child);
                self.worker_events = Some(said);
                self.job.publisher.publish_start(self.spec.counts_tasks);
                Event::Started { pid }
            }
            Err(cause) => failed(&cause),
        }
    }

    /// Gives up on the execution of the worker. A process that exists by then is killed.
    pub(super) fn abandon_spawn(&mut self) {
        if let Some(spawning) = self.spawning.take() {
            let program = self.spec.program.display();
            warn!(name: "worker-start-failed", %program, "the worker's program was not executed in time: not waiting for it any longer");
            spawning.abort();
        }
    }
}

/// Logs the reason for a failed start.
pub(super) fn failed(cause: &StartError) -> Event {
    let passing = cause.passes();
    if passing {
        error!(name: "worker-start-failed", error = %ErrorChain(cause), "worker cannot be started now");
    } else {
        error!(name: "worker-start-failed", error = %ErrorChain(cause), "worker cannot be started");
    }
    Event::StartFailed { passing }
}

/// Looks up the worker's account; `None`: the runner's own.
pub(super) async fn account(spec: &LaunchSpec, lanes: &Lanes) -> Result<Option<(Account, User)>, StartError> {
    let Some(name) = spec.user.clone() else { return Ok(None) };
    let what = format!("the look-up of user {name:?} (worker.user)");
    let found = lanes.accounts.ask(&what, TIME, {
        let name = name.clone();
        move || look_up(&name)
    });
    found.await?.map(Some).map_err(|cause| StartError::User { user: name, cause })
}

/// Looks up the account with all its groups.
fn look_up(name: &str) -> io::Result<(Account, User)> {
    let user = User::from_name(name)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such user on this host"))?;
    let groups: Vec<Gid> = nix::unistd::getgrouplist(&std::ffi::CString::new(name)?, user.gid)?;
    Ok((Account { uid: user.uid, gid: user.gid, groups }, user))
}

/// Writes the worker's configuration file, private to the worker's account. An existing file is replaced, whatever its
/// mode was.
pub(super) async fn write_configuration(spec: LaunchSpec, lanes: Lanes) -> Result<(), StartError> {
    let Some(file) = spec.config_file.clone() else { return Ok(()) };
    let account = account(&spec, &lanes).await?;
    let owner = account.map(|(account, _)| Owner { uid: account.uid.as_raw(), gid: account.gid.as_raw() });
    let path = file.path.clone();
    // The write ends with an fsync.
    Ok(lanes.worker_config.at(&path, TIME, move || file.write(owner)).await??)
}

/// A worker's process without an owner yet. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct Spawned {
    process: Option<std::process::Child>,
    pub(super) program: PathBuf,
    /// The read ends of its stdout and stderr.
    pipes: Option<[OwnedFd; 2]>,
    /// The terminal, if it was lent to the worker.
    terminal: Option<Loan>,
    _starting: Starting,
}

impl Spawned {
    pub(super) fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, std::process::Child::id)
    }

    /// Takes its stdin. `None` the second time.
    pub(super) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.process.as_mut()?.stdin.take()
    }

    /// Takes the read ends of its stdout and stderr.
    pub(super) fn take_pipes(&mut self) -> Option<[OwnedFd; 2]> {
        self.pipes.take()
    }

    /// Takes the terminal, if it was lent to the worker.
    pub(super) fn take_terminal(&mut self) -> Option<Loan> {
        self.terminal.take()
    }

    /// Passes the process to the caller.
    pub(super) fn take_process(&mut self) -> Option<std::process::Child> {
        self.process.take()
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // The process has not been reaped, so the group number cannot have been reused. The reaper of orphans reaps it.
        if let Some(Ok(group)) = self.process.as_ref().map(|process| i32::try_from(process.id())) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

/// Executes the worker's program, marked with its origin.
pub(super) async fn execute(
    spec: LaunchSpec,
    (origin, helpers): (Origin, Helpers),
    lanes: Lanes,
) -> Result<Spawned, StartError> {
    let account = account(&spec, &lanes).await?;
    if let Some(folder) = spec.cwd.clone() {
        // Checked separately, so that an error names the folder and not the program.
        let looked_at = folder.clone();
        lanes.worker.at(&folder, TIME, move || drop(looked_at.metadata())).await?;
    }
    let program = spec.program.clone();
    let spec = lanes.worker.at(&program, TIME, || spec.on_this_host()).await?;
    let path = spec.env.get("PATH").map(|path| OsString::from(path.expose_secret()));
    let found = helper::visit(&spec.program, path.as_deref(), (&lanes.worker, TIME)).await?;
    let program = spec.program.display().to_string();
    let execute = move || spawn(spec, (account, found), (origin, helpers.starting()));
    lanes.worker.ask(&program, TIME, execute).await?
}

/// Spawns the worker. Blocks until the program is executed.
fn spawn(
    spec: LaunchSpec,
    (account, found): (Option<(Account, User)>, Option<PathBuf>),
    (origin, starting): (Origin, Starting),
) -> Result<Spawned, StartError> {
    let (mut command, name) = command(&spec, found.as_deref(), account.as_ref());
    command.env(origin.token.0, origin.token.1);
    let (terminal, entrance) = terminal();
    let entrances = Entrances { cgroup: origin.cgroup, terminal: entrance };
    set_apart(&mut command, account.map(|(account, _)| account), spec.oom_score_adj, entrances);
    let (stdout, stdout_writer) = pipe().map_err(StartError::Pipes)?;
    let (stderr, stderr_writer) = pipe().map_err(StartError::Pipes)?;
    // The command, which is dropped at the end, holds the other ends of the pipes: while it lives there is no end of
    // file.
    command.stdin(Stdio::piped()).stdout(stdout_writer).stderr(stderr_writer);
    // If the program was not found, the attempt reports why.
    let exactly = found.map_or(Ok(()), |_| execute::exactly(&mut command, &name));
    match exactly.and_then(|()| command.spawn()) {
        Ok(process) => Ok(Spawned {
            process: Some(process),
            program: spec.program,
            pipes: Some([stdout, stderr]),
            terminal,
            _starting: starting,
        }),
        Err(cause) => Err(StartError::Execute { hint: hint(&spec, &cause), program: spec.program, cause }),
    }
}

/// Prepares the terminal for the worker, and the entrance for its process; `None` if the runner has no terminal, or
/// runs in its background.
fn terminal() -> (Option<Loan>, Option<OwnedFd>) {
    let prepared = Loan::prepare().and_then(|loan| loan.map(|loan| Ok((loan.entrance()?, loan))).transpose());
    match prepared {
        Ok(Some((entrance, loan))) => (Some(loan), Some(entrance)),
        Ok(None) => (None, None),
        Err(error) => {
            cannot_lend(&error);
            (None, None)
        }
    }
}

/// Logs that the terminal stays with the runner.
pub(super) fn cannot_lend(error: &io::Error) {
    warn!(%error, "cannot lend the terminal to the worker: what changes the terminal's settings there is stopped");
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// Builds the command. Also returns its `argv[0]`. `found`: the path of the program.
fn command(
    spec: &LaunchSpec,
    found: Option<&Path>,
    account: Option<&(Account, User)>,
) -> (Command, OsString) {
    let program = found.unwrap_or(&spec.program);
    // A path with a slash is relative to the runner's working directory and not to the worker's.
    let program = match program.components().nth(1) {
        Some(_) => std::path::absolute(program).unwrap_or_else(|_| program.to_owned()),
        None => program.to_owned(),
    };
    let name = if is_looked_up(spec) { spec.program.clone() } else { program.clone() };
    let mut command = Command::new(program);
    command.arg0(&name).args(&spec.args);
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
    (command, name.into_os_string())
}

/// Returns true if the program is looked up in `PATH`.
fn is_looked_up(spec: &LaunchSpec) -> bool {
    spec.program.components().nth(1).is_none()
}

/// Returns the usual cause of the error. Accesses the files.
fn hint(spec: &LaunchSpec, cause: &io::Error) -> String {
    let exists = spec.program.exists();
    let hint = match cause.kind() {
        io::ErrorKind::NotFound if spec.cwd.as_deref().is_some_and(|folder| !folder.is_dir()) => {
            " (worker.cwd is no folder)"
        }
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied if is_looked_up(spec) => {
            " (looked up in PATH; for a file in the runner's folder write ./ before it)"
        }
        io::ErrorKind::NotFound if exists => " (the file is there: the interpreter in its first line is not)",
        io::ErrorKind::PermissionDenied if spec.program.is_dir() => " (it is a folder)",
        io::ErrorKind::PermissionDenied => return no_permission(spec),
        _ => helper::hint_of_kernel(cause),
    };
    hint.to_owned()
}

fn no_permission(spec: &LaunchSpec) -> String {
    if let Some(hint) = mounts::noexec_hint(&spec.program) {
        return hint;
    }
    match spec.user {
        Some(_) => " (is it executable, may worker.user reach it, and may the runner change its user?)",
        None => " (is it executable?)",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execute_error(code: Errno) -> StartError {
        StartError::Execute { program: "/x".into(), hint: String::new(), cause: code.into() }
    }

    #[test]
    fn a_short_list_of_reasons_passes_and_all_others_are_final() {
        for code in PASSING {
            assert!(execute_error(code).passes(), "{code}");
            assert!(StartError::Pipes(code.into()).passes(), "{code}");
        }
        for code in [Errno::ENOENT, Errno::EACCES, Errno::ENOEXEC, Errno::EPERM, Errno::ENOTDIR, Errno::ELOOP]
        {
            assert!(!execute_error(code).passes(), "{code}");
        }
        let nobody = StartError::User { user: "x".to_owned(), cause: io::ErrorKind::NotFound.into() };
        assert!(!nobody.passes());
        let hung = Unanswered::TimedOut { what: "/x".to_owned(), limit: TIME };
        assert!(StartError::from(hung).passes());
        assert!(!StartError::from(Unanswered::Failed { what: "/x".to_owned() }).passes());
    }

    #[test]
    fn a_configuration_file_on_a_full_disk_is_tried_again_and_one_in_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let attributes = crate::host::atomic::Attributes { mode: 0o600, owner: None };
        let write =
            |path: &str| crate::host::atomic::replace(path.as_ref(), b"x", attributes, 0o700).unwrap_err();
        let in_a_file = write(&folder.path().join("file/config").display().to_string());
        assert!(!StartError::from(in_a_file).passes());
    }
}
