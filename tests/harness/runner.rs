//! A running start-worker.

use std::io::Read;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use test_support::processes::{self, Process};
use test_support::record::Event;
use test_support::secrets::Secrets;

use super::log::Log;
use super::scene::ACCESS_TOKEN;
use super::{Scene, eventually};

/// The environment variable that identifies a scene's processes.
pub(super) const MARK: &str = "TEST_WORKER_MARK";

/// A running start-worker with its worker. Dropping it kills everything.
pub(crate) struct Runner {
    scene: Scene,
    child: Child,
    started: Instant,
    exit: Arc<OnceLock<(WaitStatus, Instant)>>,
    log: Log,
}

/// The end of a runner.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// The time since its start.
    pub(crate) after: Duration,
    /// Its whole log.
    pub(crate) log: String,
    /// Everything that the worker has recorded.
    pub(crate) events: Vec<Event>,
    /// `shutdown` and `reboot`, once for each call.
    pub(crate) host_commands: Vec<String>,
}

impl Ended {
    /// The number of starts of the worker.
    pub(crate) fn starts(&self) -> usize {
        self.events.iter().filter(|event| event.name() == "start").count()
    }
}

impl Runner {
    pub(super) fn new(scene: Scene, mut child: Child) -> Self {
        let exit = Arc::new(OnceLock::new());
        let shared = Arc::clone(&exit);
        let pid = Pid::from_raw(child.id().cast_signed());
        // The runner remains a zombie until the test is over, so that its pid is not reused and can be signalled
        // safely.
        std::thread::spawn(move || {
            let status = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            if let Ok(status) = status {
                shared.set((status, Instant::now())).ok();
            }
        });
        let log = Log::read(child.stderr.take().unwrap(), scene.blocked_sink);
        Self { scene, child, started: Instant::now(), exit, log }
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_raw(self.pid())
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// `provider.workerID`, unless the test has set another.
    pub(crate) fn worker_id(&self) -> &str {
        &self.scene.mark
    }

    /// A file in the scene's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scene.path(name)
    }

    /// Signals the runner. Returns the time.
    pub(crate) fn signal(&self, signal: Signal) -> Instant {
        kill(self.raw_pid(), signal).unwrap();
        Instant::now()
    }

    /// Signals the runner's process group, as a terminal does.
    pub(crate) fn signal_group(&self, signal: Signal) {
        killpg(self.raw_pid(), signal).unwrap();
    }

    /// Everything that the worker has recorded so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        Event::read(&self.path("record"))
    }

    /// Waits for a match in the worker's record.
    #[track_caller]
    pub(crate) fn wait_for<T>(&self, what: &str, mut find: impl FnMut(&[Event]) -> Option<T>) -> T {
        let mut dead_since = None;
        let found = eventually(|| {
            let found = find(&self.events()).map(Ok);
            // Events recorded just before the runner's end still count.
            if dead_since.is_some() {
                return found.or(Some(Err(())));
            }
            dead_since = self.exit.get();
            found
        });
        match found {
            Some(Ok(found)) => found,
            Some(Err(())) => panic!("the runner ended before there was {what}\n{self}"),
            None => panic!("there was no {what} in time\n{self}"),
        }
    }

    /// Waits for the first event of this name.
    #[track_caller]
    pub(crate) fn wait_for_event(&self, name: &str) -> Event {
        self.wait_for(name, |events| events.iter().find(|event| event.name() == name).cloned())
    }

    /// Waits for the worker's note with this text.
    #[track_caller]
    pub(crate) fn wait_for_note(&self, text: &str) -> Event {
        self.wait_for(text, |events| events.iter().find(|event| event.text("text") == text).cloned())
    }

    /// Waits for a graceful-termination.
    #[track_caller]
    pub(crate) fn wait_for_graceful_termination(&self, finish_tasks: bool) -> Event {
        let told = |event: &&Event| event.field("message")["finish-tasks"] == finish_tasks;
        self.wait_for("graceful-termination", |events| events.iter().find(told).cloned())
    }

    /// Waits for the worker's `count`-th start.
    #[track_caller]
    pub(crate) fn wait_for_start(&self, count: usize) -> Event {
        let start =
            |events: &[Event]| events.iter().filter(|event| event.name() == "start").nth(count - 1).cloned();
        self.wait_for(&format!("start {count}"), start)
    }

    /// Waits for this text in the log.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) {
        assert!(self.log.waits_for(text), "there was no `{text}` in the log in time\n{self}");
    }

    /// Waits until the runner has ended and its whole log is read.
    #[track_caller]
    pub(crate) fn ended(&self) -> Ended {
        let Some((status, when)) = eventually(|| self.exit.get().copied()) else {
            panic!("the runner did not end in time\n{self}");
        };
        assert!(self.log.wait_for_end(), "somebody holds the log although the runner has ended\n{self}");
        self.assert_no_secrets(&self.log.bytes());
        let code = match status {
            WaitStatus::Exited(_, code) => Some(code),
            _ => None,
        };
        let commands = std::fs::read_to_string(self.path("host-commands")).unwrap_or_default();
        Ended {
            code,
            after: when - self.started,
            log: self.log(),
            events: self.events(),
            host_commands: commands.lines().map(str::to_owned).collect(),
        }
    }

    /// The time of the runner's end.
    pub(crate) fn end(&self) -> Instant {
        self.ended();
        self.exit.get().unwrap().1
    }

    /// Returns true while the runner is running.
    pub(crate) fn is_running(&self) -> bool {
        self.exit.get().is_none()
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.bytes()).into_owned()
    }

    /// The log so far, as bytes.
    pub(crate) fn log_bytes(&self) -> Vec<u8> {
        self.log.bytes()
    }

    /// Lets an unread log be read.
    pub(crate) fn unblock_sink(&self) {
        self.log.unblock();
    }

    /// The runner's stdout, after its end.
    pub(crate) fn stdout(&mut self) -> String {
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.assert_no_secrets(text.as_bytes());
        text
    }

    /// Asserts that the output contains no known secret.
    #[track_caller]
    pub(crate) fn assert_no_secrets(&self, printed: &[u8]) {
        if self.scene.shows_secrets {
            return;
        }
        let mut secrets = Secrets::of_folder(self.scene.dir.path());
        secrets.add("the scene's access token", ACCESS_TOKEN);
        secrets.assert_kept(printed);
    }

    /// The runner's children, zombies included.
    pub(crate) fn children(&self) -> Vec<Process> {
        processes::children(self.pid())
    }

    /// The pids of all processes on the host with this entry in their environment.
    pub(crate) fn pids_with(entry: &str) -> Vec<i32> {
        processes::with_environment(entry).into_iter().map(|process| process.pid).collect()
    }

    /// All live processes of the scene except the runner.
    pub(crate) fn living(&self) -> Vec<Process> {
        let mut found = self.scene.living();
        found.retain(|process| process.pid != self.pid());
        found
    }

    /// Asserts that no process of the scene is alive. Does not wait, because the runner must have terminated them
    /// before it ended.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        let left = self.living();
        assert!(left.is_empty(), "left behind: {left:?}\n{self}");
        assert!(!self.a_descendant_lives(), "a descendant that cannot be seen was left behind\n{self}");
    }

    /// Returns true if any descendant of the worker is alive, however it hides: each holds a lock.
    pub(crate) fn a_descendant_lives(&self) -> bool {
        let Ok(file) = std::fs::File::open(self.path("record.lives")) else { return false };
        Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err()
    }

    /// Asserts that the runner has never used more than 32 MiB.
    #[track_caller]
    pub(crate) fn assert_small(&self) {
        let peak = processes::peak_memory(self.pid());
        assert!(peak <= 32 * 1024, "the runner has used {peak} KiB");
    }
}

impl std::fmt::Display for Runner {
    /// Formats the runner for failed assertions.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let log = self.log();
        let shown = log.char_indices().nth_back(8000).map_or(0, |(at, _)| at);
        writeln!(
            f,
            "--- runner: {:?}; its log:\n{}--- the worker's record:",
            self.exit.get(),
            &log[shown..]
        )?;
        for event in self.events() {
            writeln!(f, "{} {} {}", event.name(), event.text("signal"), event.text("raw"))?;
        }
        Ok(())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.child.kill().ok();
        // This ends a chain of forks.
        std::fs::remove_file(self.path("record.lives")).ok();
        let gone = eventually(|| {
            let living = self.living();
            for process in &living {
                kill(Pid::from_raw(process.pid), Signal::SIGKILL).ok();
            }
            living.is_empty().then_some(())
        });
        self.child.wait().ok();
        if std::thread::panicking() {
            return;
        }
        assert!(gone.is_some(), "cannot kill what the scene has left behind");
        if let Some(mut stdout) = self.child.stdout.take() {
            let mut printed = Vec::new();
            stdout.read_to_end(&mut printed).ok();
            self.assert_no_secrets(&printed);
        }
        self.assert_no_secrets(&self.log.bytes());
    }
}
