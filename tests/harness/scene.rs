//! The set-up of a test: a runner configuration in its own folder.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::processes::{self, Process};

use super::Runner;

/// The access token of every scene. It must never appear in a log.
pub(crate) const ACCESS_TOKEN: &str = "made-up-access-token";

/// A runner configuration without anything that a test must not do to its host.
pub(crate) struct Scene {
    pub(super) dir: TempDir,
    pub(super) mark: String,
    pub(super) blocked_sink: bool,
    pub(super) shows_secrets: bool,
    config: Value,
    text: Option<String>,
    env: Vec<(String, String)>,
    before: Option<String>,
    through: Vec<String>,
}

impl Scene {
    /// A scene with the `command` worker.
    pub(crate) fn new() -> Self {
        Self::with_implementation("command")
    }

    /// A scene with `generic-worker`, which can be restarted in place unless the test says otherwise.
    pub(crate) fn generic_worker() -> Self {
        Self::with_implementation("generic-worker").set("worker.restartInPlace", true)
    }

    fn with_implementation(implementation: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("w{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("start-worker-e2e-").tempdir().unwrap();
        let host_commands = dir.path().join("host-commands");
        let recorder =
            |name: &str| json!(["/bin/sh", "-c", format!("echo {name} >> {}", host_commands.display())]);
        // A host that goes down sends the runner SIGTERM.
        let record = format!("echo shutdown >> {}; kill -TERM $PPID", host_commands.display());
        let shutdown = json!(["/bin/sh", "-c", record]);
        let config = json!({
            "provider": {
                "providerType": "standalone", "rootURL": "https://tc.example.com", "clientID": "client",
                "accessToken": ACCESS_TOKEN, "workerPoolID": "pp/ww", "workerGroup": "wg", "workerID": mark,
            },
            "worker": {
                "implementation": implementation, "path": test_worker(), "configPath": dir.path().join("worker.json"),
            },
            "supervision": {
                "stopTimeout": "5s", "killTimeout": "300ms", "backoff": {"initial": "10ms", "max": "40ms"},
            },
            "host": {
                "shutdownCommand": shutdown, "rebootCommand": recorder("reboot"),
                "forceShutdownCommand": recorder("force-shutdown"), "forceRebootCommand": recorder("force-reboot"),
            },
            "status": {"socket": null},
            // The machine's own display manager must not be configured.
            "autologin": {"root": dir.path().join("root")},
            "getSecrets": false,
        });
        Self {
            dir,
            mark,
            blocked_sink: false,
            shows_secrets: false,
            config,
            text: None,
            env: Vec::new(),
            before: None,
            through: Vec::new(),
        }
    }

    /// Sets the worker's script, one statement each.
    pub(crate) fn worker<S: AsRef<str>>(self, script: impl IntoIterator<Item = S>) -> Self {
        let script: Vec<String> = script.into_iter().map(|statement| statement.as_ref().to_owned()).collect();
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

    /// Replaces the whole file. `{worker}` and `{dir}` become the test worker's path and the scene's folder.
    pub(crate) fn text(mut self, text: &str) -> Self {
        let dir = self.dir.path().to_str().unwrap();
        self.text = Some(text.replace("{worker}", test_worker().to_str().unwrap()).replace("{dir}", dir));
        self
    }

    /// Sets an environment variable of the runner.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the runner in this cgroup.
    pub(crate) fn in_cgroup(self, folder: &Path) -> Self {
        self.after(format!("echo 0 >'{}/cgroup.procs'", folder.display()))
    }

    /// Runs this command in a shell first, which then becomes the runner.
    pub(crate) fn after(mut self, command: String) -> Self {
        self.before = Some(command);
        self
    }

    /// Runs this program with these arguments, which then becomes the runner.
    pub(crate) fn through<const N: usize>(mut self, command: [&str; N]) -> Self {
        self.through = command.map(str::to_owned).to_vec();
        self
    }

    /// Leaves the log unread until [`Runner::unblock_sink`].
    pub(crate) fn blocked_sink(mut self) -> Self {
        self.blocked_sink = true;
        self
    }

    /// Configures the runner to show secrets: its output is not checked for them.
    pub(crate) fn shows_secrets(mut self) -> Self {
        self.shows_secrets = true;
        self
    }

    /// A file in the scene's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the runner configuration, mode 0600.
    pub(crate) fn write(&self) -> PathBuf {
        let path = self.path("runner.yml");
        // JSON is YAML.
        let text = self.text.clone().unwrap_or_else(|| serde_json::to_string_pretty(&self.config).unwrap());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The runner's environment, in addition to the inherited one.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        let of = |path: PathBuf| path.to_str().unwrap().to_owned();
        let own = [
            ("TEST_WORKER_RECORD", of(self.path("record"))),
            (super::runner::MARK, self.mark.clone()),
            ("RUNTIME_DIRECTORY", of(self.path(""))),
            ("STATE_DIRECTORY", of(self.path(""))),
        ];
        own.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(self.env.clone()).collect()
    }

    /// All live processes of the scene.
    pub(super) fn living(&self) -> Vec<Process> {
        processes::with_environment(&format!("{}={}", super::runner::MARK, self.mark))
    }

    /// Starts the runner.
    pub(crate) fn start(self) -> Runner {
        let path = self.write();
        self.start_with([path.as_os_str()])
    }

    /// Starts the runner with these arguments.
    pub(crate) fn start_with<S: AsRef<std::ffi::OsStr>>(self, args: impl IntoIterator<Item = S>) -> Runner {
        let mut command = match &self.before {
            None => match self.through.split_first() {
                None => Command::new(env!("CARGO_BIN_EXE_start-worker")),
                Some((program, args)) => {
                    let mut wrapper = Command::new(program);
                    wrapper.args(args).arg(env!("CARGO_BIN_EXE_start-worker"));
                    wrapper
                }
            },
            Some(before) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", &format!("{before} && exec \"$@\""), "sh"]);
                shell.arg(env!("CARGO_BIN_EXE_start-worker"));
                shell
            }
        };
        command.args(args);
        command.envs(self.variables());
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        // In its own process group, so that a test can signal the whole group.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Runner::new(self, command.spawn().expect("cannot start the runner"))
    }
}

/// The path of the test worker that cargo built.
pub(crate) fn test_worker() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_start-worker")).parent().unwrap();
    let path = folder.join("examples/test-worker");
    assert!(
        path.exists(),
        "no {}: `cargo test` builds it, `--test it` needs `--example test-worker`",
        path.display()
    );
    path
}
