//! A container without an engine: namespaces, a root of its own, and the command as PID 1.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use test_support::record::Event;

/// Time limit for operations that take milliseconds on an idle host.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The uid on the host of rootless containers.
const ROOTLESS: u32 = 65_534;

/// Asks until there is an answer; none within [`DEADLINE`]: none.
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The user that starts the container, and the user of its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Started by root, and root inside.
    Root,
    /// Started by root, uid 1000 inside: `docker run --user 1000`.
    User,
    /// Started by another user, in a user namespace; root inside.
    Rootless,
    /// Started by another user, in a user namespace; uid 1000 inside.
    RootlessUser,
}

impl Kind {
    /// All that this host can make. Where that is none, the tests pass without having shown anything, but fail with `CI`.
    pub(crate) fn all() -> Vec<Self> {
        static POSSIBLE: OnceLock<Vec<Kind>> = OnceLock::new();
        let possible = POSSIBLE.get_or_init(|| {
            let all = [Self::Root, Self::User, Self::Rootless, Self::RootlessUser];
            let possible: Vec<_> =
                all.into_iter().filter(|kind| Container::new(*kind).can_be_made()).collect();
            let must = std::env::var_os("CI").is_some() && nix::unistd::geteuid().is_root();
            assert!(
                !must || possible == all,
                "with CI set nothing may be skipped, only {possible:?} is possible"
            );
            possible
        });
        possible.clone()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::User => "user",
            Self::Rootless => "rootless",
            Self::RootlessUser => "rootless-user",
        }
    }

    fn is_rootless(self) -> bool {
        matches!(self, Self::Rootless | Self::RootlessUser)
    }

    /// Returns true if its processes are uid 0 inside.
    pub(crate) fn is_root_inside(self) -> bool {
        matches!(self, Self::Root | Self::Rootless)
    }

    /// Its processes' uid on the host.
    fn uid(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::User => 1000,
            Self::Rootless | Self::RootlessUser if nix::unistd::geteuid().is_root() => ROOTLESS,
            Self::Rootless | Self::RootlessUser => nix::unistd::geteuid().as_raw(),
        }
    }

    fn uid_inside(self) -> &'static str {
        if self.is_root_inside() { "0" } else { "1000" }
    }
}

/// Copies that every user may execute, wherever the sources are; for as long as a container needs them.
fn programs() -> Arc<TempDir> {
    static FOLDER: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let mut shared = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(folder) = shared.upgrade() {
        return folder;
    }
    let folder = tempfile::Builder::new().prefix("start-worker-container-bin-").tempdir().unwrap();
    let built = Path::new(env!("CARGO_BIN_EXE_start-worker"));
    // By another process: a test that forks while this one writes a copy would keep it from being executed.
    let sources = [built.to_owned(), built.with_file_name("examples/test-worker")];
    let copied = Command::new("cp").args(sources).arg(folder.path()).status().unwrap();
    assert!(copied.success(), "`--test machines` needs `--example test-worker`");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let folder = Arc::new(folder);
    *shared = Arc::downgrade(&folder);
    folder
}

/// A container that is to be started: its volume `/data`, and how it is made.
pub(crate) struct Container {
    pub(crate) kind: Kind,
    folder: TempDir,
    programs: Arc<TempDir>,
    config: Value,
    options: Vec<String>,
    env: Vec<(String, String)>,
    command: Vec<String>,
}

impl Container {
    /// With the runner as PID 1, and a worker that ends when it is asked to.
    pub(crate) fn new(kind: Kind) -> Self {
        let folder = tempfile::Builder::new().prefix("start-worker-container-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["root", "data"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let recorder = |name: &str| json!(["/bin/sh", "-c", format!("echo {name} >>/data/host-commands")]);
        let config = json!({
            "provider": {
                "providerType": "standalone", "rootURL": "https://tc.example.com", "clientID": "client",
                "accessToken": "made-up-access-token", "workerPoolID": "pp/ww", "workerGroup": "wg",
                "workerID": "wi",
            },
            "worker": {
                "implementation": "command", "path": "/opt/bin/test-worker", "configPath": "/data/worker.json",
                "args": ["on now: exit 0", "on finish: exit 0", "hello all", "wait"],
            },
            "supervision": {
                "stopTimeout": "10s", "killTimeout": "300ms", "backoff": {"initial": "10ms", "max": "40ms"},
            },
            "host": {
                "shutdownCommand": recorder("shutdown"), "rebootCommand": recorder("reboot"),
                "forceShutdownCommand": recorder("force-shutdown"), "forceRebootCommand": recorder("force-reboot"),
            },
            "getSecrets": false,
        });
        let command = ["/opt/bin/start-worker", "/data/runner.yml"].map(str::to_owned).to_vec();
        let env = vec![("TEST_WORKER_RECORD".to_owned(), "/data/record".to_owned())];
        Self { kind, folder, programs: programs(), config, options: Vec::new(), env, command }
    }

    /// The worker's script, one statement each.
    pub(crate) fn worker(self, script: &[&str]) -> Self {
        self.set("worker.args", script)
    }

    /// Sets one key, by its path: `supervision.stopTimeout`.
    pub(crate) fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let mut place = &mut self.config;
        for key in path.split('.') {
            place = &mut place[key];
        }
        *place = value.into();
        self
    }

    /// Adds an option of `container.sh`.
    pub(crate) fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// As an image has it that follows packaging/Containerfile: directories that the user may write.
    pub(crate) fn with_directories(self) -> Self {
        self.option("run").env("RUNTIME_DIRECTORY", "/run/start-worker").env("STATE_DIRECTORY", "/data/state")
    }

    /// PID 1 is this.
    pub(crate) fn command(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// A file of the volume, as the host sees it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("data").join(name)
    }

    /// Writes a file of the volume, mode 0600, for the container's user.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self.give(&path);
    }

    fn give(&self, path: &Path) {
        let uid = self.kind.uid();
        if nix::unistd::geteuid().is_root() {
            chown(path, Some(uid), Some(uid)).unwrap();
        }
    }

    fn engine(&self) -> Command {
        let mut words: Vec<String> = Vec::new();
        if self.kind.is_rootless() && nix::unistd::geteuid().is_root() {
            let ids = [format!("--reuid={ROOTLESS}"), format!("--regid={ROOTLESS}")];
            words.extend(["setpriv".to_owned(), "--clear-groups".to_owned()].into_iter().chain(ids));
        }
        words.push("unshare".to_owned());
        if self.kind.is_rootless() {
            words.extend(["--user", "--map-root-user"].map(str::to_owned));
        }
        let namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"];
        words.extend(namespaces.map(str::to_owned));
        words.extend(["--propagation", "private", "bash"].map(str::to_owned));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("-c").arg(include_str!("container.sh")).arg("container.sh");
        command.arg(self.kind.name());
        command.arg(self.folder.path().join("root")).arg(self.path("")).arg(self.programs.path());
        command.arg(self.options.join(",")).args(&self.command);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin");
        command.envs(self.env.iter().cloned()).current_dir("/");
        command
    }

    fn can_be_made(self) -> bool {
        self.give(&self.path(""));
        let tried =
            self.command(&["/bin/cat", "/proc/1/comm"]).engine().stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&tried.stderr).into_owned();
        let possible = tried.status.success() && tried.stdout == b"cat\n";
        if !possible {
            use std::io::Write as _;
            writeln!(std::io::stderr(), "skipped: no such container here: {}", said.trim()).ok();
        }
        possible
    }

    /// Starts it, and waits until it has its PID 1.
    #[track_caller]
    pub(crate) fn start(self) -> Running {
        self.give(&self.path(""));
        self.write("runner.yml", &serde_json::to_string_pretty(&self.config).unwrap());
        self.start_as_it_is()
    }

    /// Starts with the runner configuration that is already in its volume.
    #[track_caller]
    pub(crate) fn start_as_it_is(self) -> Running {
        let mut engine = self.engine();
        let mut engine =
            engine.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (mut stderr, shared) = (engine.stderr.take().unwrap(), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            let mut block = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut block) {
                shared.lock().unwrap().extend_from_slice(&block[..count]);
            }
        });
        let mut running = Running { container: self, engine, init: 0, log, reader: Some(reader) };
        running.init = running.find_init();
        running
    }
}

/// A container that runs. Dropping it kills everything in it.
pub(crate) struct Running {
    pub(crate) container: Container,
    engine: Child,
    /// The pid, on the host, of its PID 1; 0 where it has ended already.
    pub(crate) init: i32,
    log: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

/// The end of a container.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code of its PID 1.
    pub(crate) code: Option<i32>,
    pub(crate) log: String,
    /// The worker's record.
    pub(crate) events: Vec<Event>,
}

/// The children of a process on the host, with their states (`Z` is a zombie).
pub(crate) fn children(pid: i32) -> Vec<(i32, char)> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let pids = listed.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter_map(|pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, stat.rsplit_once(") ")?.1.chars().next()?))
    })
    .collect()
}

/// The pid in its container of a process on the host.
pub(crate) fn pid_inside(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    pids.split_whitespace().last().unwrap().to_owned()
}

impl Running {
    /// `unshare` forks once, and what it forks becomes PID 1.
    #[track_caller]
    fn find_init(&mut self) -> i32 {
        let pid = self.engine.id().cast_signed();
        let found = eventually(|| {
            if self.engine.try_wait().unwrap().is_some() {
                return Some(0);
            }
            let (child, _) = children(pid).first().copied()?;
            let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
            (!["bash\n", "unshare\n", "chroot\n"].contains(&name.as_str())).then_some(child)
        });
        found.unwrap_or_else(|| panic!("no PID 1\n{self}"))
    }

    /// Signals PID 1, as `docker stop` and `docker kill` do.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.init), signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) {
        let found = eventually(|| self.log().contains(text).then_some(()));
        assert!(found.is_some(), "no `{text}` in the log\n{self}");
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        Event::read(&self.container.path("record"))
    }

    #[track_caller]
    pub(crate) fn wait_for_event(&self, what: &str, fits: impl Fn(&Event) -> bool) -> Event {
        let found = eventually(|| self.events().into_iter().find(&fits));
        found.unwrap_or_else(|| panic!("no {what} in the worker's record\n{self}"))
    }

    #[track_caller]
    pub(crate) fn wait_for_start(&self, count: usize) -> Event {
        let found =
            eventually(|| self.events().into_iter().filter(|event| event.name() == "start").nth(count - 1));
        found.unwrap_or_else(|| panic!("no start {count}\n{self}"))
    }

    /// A session beside PID 1, as `docker exec` makes it: with the image's environment, and no ancestor in the container.
    pub(crate) fn exec(&self, command: &[&str]) -> Output {
        let kind = self.container.kind;
        let (root, init) = (nix::unistd::geteuid().is_root(), self.init.to_string());
        let mut enter = Command::new("nsenter");
        if !root {
            // The user namespace of the engine owns all others of the container.
            enter.args([
                "-t",
                &self.engine.id().to_string(),
                "-U",
                "--preserve-credentials",
                "--",
                "nsenter",
            ]);
        }
        enter.args(["-t", &init, "-m", "-p", "-n", "-r", "-w"]);
        if root {
            enter.args(kind.is_rootless().then_some("-U"));
            enter.args(["-S", kind.uid_inside(), "-G", kind.uid_inside()]);
        }
        enter.arg("--").args(command);
        enter.env_clear().env("PATH", "/usr/bin:/bin:/opt/bin").envs(self.container.env.iter().cloned());
        enter.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must succeed. Returns its output.
    #[track_caller]
    pub(crate) fn must(&self, command: &[&str]) -> String {
        let output = self.exec(command);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}: {}: {out}{err}\n{self}", output.status);
        out.into_owned()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> Ended {
        let Some(status) = eventually(|| self.engine.try_wait().unwrap()) else {
            panic!("the container has not ended\n{self}")
        };
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        Ended { code: status.code(), log: self.log(), events: self.events() }
    }
}

impl fmt::Display for Running {
    /// For failed assertions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "--- {:?}, the log:\n{}--- the worker's record:", self.container.kind, self.log())?;
        self.events().iter().try_for_each(|event| writeln!(f, "{} {}", event.pid(), event.name()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // With its PID 1 the kernel ends all that is in it.
        if self.engine.try_wait().is_ok_and(|status| status.is_none()) {
            if self.init > 0 {
                kill(Pid::from_raw(self.init), Signal::SIGKILL).ok();
            }
            self.engine.kill().ok();
            self.engine.wait().ok();
        }
    }
}
