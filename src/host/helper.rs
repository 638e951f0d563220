//! Helper programs: short-lived processes that the runner itself starts beside the worker (host commands, hooks,
//! `<worker> --version`).
//!
//! Each helper has its own process group, and a time limit that ends the whole group. Its output is always read to the
//! end, and the first lines are kept. A process that outlives its helper (for example a shutdown script that puts
//! itself into the background) carries the helper's mark in its environment, so that it is not mistaken for a leftover
//! process of the worker.
#![expect(unsafe_code, reason = "pre_exec runs between fork and exec")]

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use thiserror::Error;
use tokio::process::Child;

use super::blocking::{Lane, Unanswered};

mod look_up;
mod output;
mod starting;

use super::{execute, processes};
use look_up::hint;
pub use look_up::{command, hint_of_kernel, visit};
use output::{Capture, Reading};
pub use output::{Output, PrintLine};
pub use starting::Starting;
use starting::Starts;

/// Time limit for the rest of the output once the helper has exited. A child of the helper may still hold the pipes.
const LAST_OUTPUT: Duration = Duration::from_millis(200);

/// Time limit for the program of a query or a host command to begin execution.
const START_QUESTION: Duration = Duration::from_secs(5);
const START_HOST_COMMAND: Duration = Duration::from_secs(30);

/// Time limit for a killed helper to disappear.
const KILLED: Duration = Duration::from_secs(1);

/// Time limit for reading a file in `/proc`, because the runtime's thread waits for it.
const INSPECTION: Duration = Duration::from_millis(100);

/// The number of rounds of finding and killing a helper's leftover processes, because they may fork meanwhile.
const ROUNDS: usize = 10;

/// The environment variable that marks a helper's processes.
const MARK: &str = "START_WORKER_HELPER";

/// The reason for a helper's failure.
#[derive(Debug, Error)]
pub enum HelperError {
    /// The program was not executed in time.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// The program does not exist, or may not be executed.
    #[error("cannot execute {program}: {cause}{hint}")]
    Execute {
        program: String,
        cause: io::Error,
        /// The places in which the program was looked up, or the likely cause.
        hint: String,
    },
    /// The program exited with a failure.
    #[error("{program} failed ({status}){}", said(.message))]
    Failed {
        program: String,
        status: ExitStatus,
        /// The first lines of its stderr.
        message: String,
    },
    /// The program did not exit in time.
    #[error(
        "{program} has not ended within {}: it was killed, with its process group",
        humantime::format_duration(*limit)
    )]
    TimedOut { program: String, limit: Duration },
}

impl HelperError {
    fn execute(program: &str, cause: io::Error) -> Self {
        let hint = hint(program, &cause);
        Self::Execute { program: program.to_owned(), cause, hint }
    }
}

/// Formats the helper's output for the end of an error message.
fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// The treatment of processes that a helper leaves behind when it exits by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// They continue: a shutdown script may do its work in the background.
    GoOn,
    /// They are killed: the helper only answered a query.
    Killed,
}

/// The registry of the runner's helpers. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Helpers {
    registry: Arc<Registry>,
    /// The lanes that start questions, and apart from them host commands and hooks: a question that hangs delays neither.
    questions: Lane,
    host_commands: Lane,
    hooks: Lane,
    /// The lane that reads those files in `/proc` that a process can hang.
    inspection: Lane,
}

#[derive(Debug)]
struct Registry {
    running: Mutex<HashSet<i32>>,
    /// Unknown to workers, so that a task cannot impersonate a helper.
    token: String,
    started: AtomicU64,
    /// Set once a helper was started that may leave processes behind.
    free: AtomicBool,
    starts: Starts,
}

/// A helper's entry in the registry. Dropping it removes the entry.
#[derive(Debug)]
pub struct Registered {
    pid: i32,
    helpers: Helpers,
}

/// A running helper.
#[derive(Debug)]
pub struct Running {
    program: String,
    process: Child,
    group: Option<Pid>,
    stdout: Capture,
    stderr: Capture,
    remains: Remains,
    mark: String,
    search: Lane,
    ended: bool,
    _registered: Registered,
}

impl Default for Registry {
    fn default() -> Self {
        let token = format!("{:032x}", fastrand::u128(..));
        Self {
            running: Mutex::default(),
            token,
            started: AtomicU64::new(0),
            free: AtomicBool::new(false),
            starts: Starts::default(),
        }
    }
}

impl Helpers {
    /// Registers a child of the runner that other code started and waits for.
    pub fn add(&self, pid: Option<u32>) -> Registered {
        let pid = pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        self.running(|running| running.insert(pid));
        Registered { pid, helpers: self.clone() }
    }

    /// Returns true if this process is a running helper, which other code waits for, and not a leftover process of the
    /// worker.
    pub fn has(&self, pid: i32) -> bool {
        self.running(|running| running.contains(&pid))
    }

    /// Returns true if processes of helpers can exist: running helpers, or processes that a helper was allowed to leave
    /// behind.
    pub fn any(&self) -> bool {
        self.registry.free.load(Ordering::Relaxed) || self.running(|running| !running.is_empty())
    }

    /// Returns true if a helper that may leave processes behind left this one. Reads `/proc`.
    pub fn left(&self, pid: i32) -> bool {
        let mark = format!("{MARK}={}.{}.", self.registry.token, Remains::GoOn.name());
        self.registry.free.load(Ordering::Relaxed)
            && self.environment_has(pid, move |entry| entry.starts_with(mark.as_bytes()))
    }

    /// Returns true if the process's environment has a matching entry. Returns false if the process hangs its readers.
    pub fn environment_has(&self, pid: i32, is_entry: impl Fn(&[u8]) -> bool + Send + 'static) -> bool {
        self.inspect(move || processes::has_in_environment(pid, is_entry)).unwrap_or(false)
    }

    /// Runs a read that a process can hang, on another thread. `None`: the read does not return, or an earlier one has
    /// not returned.
    pub fn inspect<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.inspection.now(INSPECTION, read)
    }

    /// Starts a helper on another thread.
    ///
    /// * `program`: its name, for messages.
    /// * `make`: builds the command; may access the file system.
    /// * `keep`: the number of bytes of each output to keep.
    ///
    /// Fails if the program cannot be executed, or its file system does not answer.
    pub async fn start(
        &self,
        program: &str,
        make: impl FnOnce() -> Result<Command, HelperError> + Send + 'static,
        keep: usize,
        remains: Remains,
    ) -> Result<Running, HelperError> {
        let (lane, limit) = match remains {
            Remains::Killed => (&self.questions, START_QUESTION),
            Remains::GoOn => (&self.host_commands, START_HOST_COMMAND),
        };
        self.launch((lane, limit), program, make, (Reading::Keep(keep), remains)).await
    }

    /// Starts a hook, whose lines are printed when they come. It may leave processes behind.
    ///
    /// # Errors
    ///
    /// The program cannot be executed, or its file system does not answer.
    pub async fn start_hook(
        &self,
        program: &str,
        make: impl FnOnce() -> Result<Command, HelperError> + Send + 'static,
        print: PrintLine,
    ) -> Result<Running, HelperError> {
        let how = (Reading::Print(print), Remains::GoOn);
        self.launch((&self.hooks, START_HOST_COMMAND), program, make, how).await
    }

    async fn launch(
        &self,
        (lane, limit): (&Lane, Duration),
        program: &str,
        make: impl FnOnce() -> Result<Command, HelperError> + Send + 'static,
        (reading, remains): (Reading, Remains),
    ) -> Result<Running, HelperError> {
        let (helpers, name) = (self.clone(), program.to_owned());
        let start = move || {
            let _starting = helpers.starting();
            helpers.start_here(name, make()?, &reading, remains)
        };
        visit(Path::new(program), None, (lane, limit)).await?;
        lane.ask(program, limit, start).await?
    }

    /// Starts the helper on the current thread. Blocks until the program is executed.
    fn start_here(
        &self,
        program: String,
        mut command: Command,
        reading: &Reading,
        remains: Remains,
    ) -> Result<Running, HelperError> {
        let number = self.registry.started.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{MARK}={}.{}.{number}.", self.registry.token, remains.name());
        command.env(MARK, mark.split_once('=').map_or("", |(_, value)| value)).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if remains == Remains::GoOn {
            ignore_sigpipe(&mut command);
            self.registry.free.store(true, Ordering::Relaxed);
        }
        let failed = |cause| HelperError::execute(&program, cause);
        if command.get_program().as_bytes().contains(&b'/') {
            execute::exactly(&mut command, OsStr::new(&program)).map_err(failed)?;
        }
        let mut process = tokio::process::Command::from(command).spawn().map_err(failed)?;
        let registered = self.add(process.id());
        Ok(Running {
            group: process.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw),
            stdout: Capture::start(process.stdout.take(), reading),
            stderr: Capture::start(process.stderr.take(), reading),
            program,
            process,
            remains,
            mark,
            search: self.inspection.clone(),
            ended: false,
            _registered: registered,
        })
    }

    fn running<T>(&self, look: impl FnOnce(&mut HashSet<i32>) -> T) -> T {
        look(&mut self.registry.running.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Remains {
    fn name(self) -> &'static str {
        match self {
            Self::GoOn => "on",
            Self::Killed => "asked",
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.helpers.running(|running| running.remove(&self.pid));
    }
}

impl Running {
    /// Waits until the helper exits. At the time limit, the helper and all its descendants in its group are killed.
    pub async fn end(self, limit: Duration) -> Result<Output, HelperError> {
        self.end_unless(limit, std::future::pending()).await
    }

    /// As [`Running::end`], but also ends the helper's time when `given_up` is ready.
    pub async fn end_unless(
        mut self,
        limit: Duration,
        given_up: impl Future<Output = ()>,
    ) -> Result<Output, HelperError> {
        let exited = tokio::select! {
            biased;
            exited = self.process.wait() => Some(exited),
            () = tokio::time::sleep(limit) => None,
            () = given_up => None,
        };
        let program = self.program.clone();
        let status = match exited {
            Some(Ok(status)) => status,
            Some(Err(cause)) => return Err(HelperError::Execute { program, cause, hint: String::new() }),
            None => {
                self.kill_group();
                let _ = tokio::time::timeout(KILLED, self.process.wait()).await;
                self.kill_remains().await;
                return Err(HelperError::TimedOut { program, limit });
            }
        };
        let rest = async {
            self.stdout.ended().await;
            self.stderr.ended().await;
        };
        // A child that continues may hold the pipes: they are read on in the background.
        let _ = tokio::time::timeout(LAST_OUTPUT, rest).await;
        if self.remains == Remains::Killed {
            self.kill_group();
            self.kill_remains().await;
        }
        self.ended = true;
        Ok(Output { program, status, stdout: self.stdout.kept(), stderr: self.stderr.kept() })
    }

    fn kill_group(&mut self) {
        self.ended = true;
        if let Some(group) = self.group {
            // The group may already be empty.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }

    /// Kills the processes that have left the helper's process group.
    async fn kill_remains(&self) {
        let mark = self.mark.clone();
        let killing = self.search.ask("/proc", KILLED, move || {
            for _ in 0..ROUNDS {
                let marked = marked(mark.as_bytes());
                if marked.is_empty() {
                    return;
                }
                for pid in marked {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
        });
        let _ = killing.await;
    }
}

impl Drop for Running {
    /// Kills a helper that is no longer awaited.
    fn drop(&mut self) {
        if !self.ended {
            self.kill_group();
        }
    }
}

/// Ignores SIGPIPE in the helper. A helper that writes after the runner has ended then gets an error instead of
/// SIGPIPE, which would end it before its work is done. systemd's services have SIGPIPE ignored, too
/// (`IgnoreSIGPIPE=`).
fn ignore_sigpipe(command: &mut Command) {
    let child = || {
        // SAFETY: SIG_IGN is not a function of ours.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        Ok(())
    };
    // SAFETY: the closure makes one system call, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(child) };
}

/// Returns true if a process carries a mark that begins with `mark`.
fn has_mark(pid: i32, mark: &[u8]) -> bool {
    processes::has_in_environment(pid, |entry| entry.starts_with(mark))
}

/// The live processes that carry this mark.
fn marked(mark: &[u8]) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| has_mark(*pid, mark)).map(Pid::from_raw).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::output::SUMMARY;
    use super::*;
    use crate::redact::Secrets;

    const KEEP: usize = 1024;
    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    async fn start(helpers: &Helpers, script: &str, remains: Remains) -> Result<Running, HelperError> {
        let command = shell(script);
        helpers.start("sh", move || Ok(command), KEEP, remains).await
    }

    async fn run(script: &str, remains: Remains) -> Result<Output, HelperError> {
        start(&Helpers::default(), script, remains).await?.end(LIMIT).await
    }

    fn alive(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    }

    async fn until(condition: impl Fn() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < LIMIT, "it did not come to that");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_helper_that_writes_more_than_is_kept_does_its_work_to_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let done = folder.path().join("done");
        let flood = "head -c 300000 /dev/zero | tr '\\0' x";
        let script = format!("{flood} >&2; {flood}; touch {}", done.display());
        let output = run(&script, Remains::GoOn).await.unwrap().success().unwrap();
        assert!(done.exists());
        let kept = [b"x".repeat(KEEP).as_slice(), "…".as_bytes()].concat();
        assert_eq!((output.stdout, output.stderr), (kept.clone(), kept));
    }

    #[tokio::test]
    async fn a_secret_that_is_cut_in_what_a_helper_said_is_masked() {
        let secret = "a-secret-of-forty-characters-or-even-more";
        let secrets = Secrets::default();
        secrets.add(secret);
        for kept in [8, 20, secret.len() - 1] {
            // The output is cut twice: when a pipe is kept, where blanks belong to no line, and when a summary is
            // shown.
            for (filler, keep) in [(" ", SUMMARY), ("x", 2 * SUMMARY)] {
                let before = filler.repeat(SUMMARY - kept);
                let script = format!("printf '%s%s and more' '{before}' {secret} >&2; exit 3");
                let (helpers, command) = (Helpers::default(), shell(&script));
                let helper = helpers.start("sh", move || Ok(command), keep, Remains::GoOn);
                let helper = helper.await.unwrap();
                let error = helper.end(LIMIT).await.unwrap().success().unwrap_err().to_string();
                assert!(error.contains(&format!("{}…", &secret[..kept])), "it was not cut there: {error}");
                let masked = secrets.mask(error);
                assert!(masked.ends_with("(masked)…") && !masked.contains("a-secret"), "{kept}: {masked}");
            }
        }
    }

    #[tokio::test]
    async fn a_helper_has_ended_although_its_child_holds_its_output() {
        let output = run("echo begun >&2; sleep 1000 & echo $!; exit 3", Remains::GoOn).await.unwrap();
        let child = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(alive(&child), "the child was ended with its helper");
        kill(Pid::from_raw(child.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
        assert_eq!(output.success().unwrap_err().to_string(), "sh failed (exit status: 3): begun");
    }

    #[tokio::test]
    async fn a_process_in_the_background_writes_after_its_helper_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (go, done) = (folder.path().join("go"), folder.path().join("done"));
        let script = format!(
            "(until [ -e {} ]; do sleep 0.01; done; head -c 200000 /dev/zero >&2; touch {}) & exit 0",
            go.display(),
            done.display()
        );
        run(&script, Remains::GoOn).await.unwrap().success().unwrap();
        std::fs::write(&go, "").unwrap();
        until(|| done.exists()).await;
    }

    #[tokio::test]
    async fn the_time_limit_ends_the_whole_group_and_what_has_left_it() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let script = format!(
            "trap '' TERM; sleep 1001 & echo $! >>{0}; setsid sh -c 'echo $$ >>{0}; exec sleep 1002' & sleep 1003",
            pids.display()
        );
        let helpers = Helpers::default();
        let running = start(&helpers, &script, Remains::GoOn).await.unwrap();
        let read = || std::fs::read_to_string(&pids).unwrap_or_default();
        until(|| read().lines().count() == 2).await;
        let error = running.end(Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(error.to_string(), "sh has not ended within 100ms: it was killed, with its process group");
        let living = || read().lines().any(alive);
        until(|| !living()).await;
    }

    #[tokio::test]
    async fn a_question_leaves_nothing_behind_and_what_a_host_command_leaves_is_known_as_such() {
        let script = "setsid sleep 1004 >/dev/null 2>&1 & echo $!";
        let helpers = Helpers::default();
        for remains in [Remains::Killed, Remains::GoOn] {
            let running = start(&helpers, script, remains).await.unwrap();
            let output = running.end(LIMIT).await.unwrap();
            let child = String::from_utf8(output.stdout).unwrap();
            let pid: i32 = child.trim().parse().unwrap();
            if remains == Remains::Killed {
                until(|| !alive(&child)).await;
            } else {
                until(|| helpers.left(pid)).await;
                assert!(alive(&child) && !Helpers::default().left(pid));
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            }
        }
        assert!(!helpers.left(nix::unistd::getpid().as_raw()));
    }
}
