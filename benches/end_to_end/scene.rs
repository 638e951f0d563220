//! A folder with a runner configuration, and the runner that uses it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::taskcluster::{AUTHORITY, GROUP, POOL, STATIC_SECRET, WORKER};
use crate::{Result, worker};

/// A file system in memory: the worker's configuration is synced before each start, and the time that a disk takes for
/// it is not the runner's.
const MEMORY: &str = "/dev/shm";

/// The files that a runner needs.
pub(crate) struct Scene {
    folder: TempDir,
}

/// The binary that is measured.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("START_WORKER").map_or(env!("CARGO_BIN_EXE_start-worker").into(), PathBuf::from)
}

/// A worker on its own: this executable again.
pub(crate) fn worker_alone(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(worker::MARK).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(command)
}

impl Scene {
    /// A runner whose worker is this executable, with these arguments. `RECORD` stands for [`Scene::record`].
    pub(crate) fn with_worker(arguments: &[&str]) -> Result<Self> {
        let scene = Self::new()?;
        scene.configure(&scene.this_executable(arguments)?)?;
        Ok(scene)
    }

    /// The same with a worker that registers there.
    pub(crate) fn registering(root_url: &str, arguments: &[&str]) -> Result<Self> {
        let scene = Self::new()?;
        let provider = json!({
            "providerType": "static", "rootURL": root_url, "providerID": "static", "workerPoolID": POOL,
            "workerGroup": GROUP, "workerID": WORKER, "staticSecret": STATIC_SECRET,
        });
        scene.write(&provider, true, &scene.this_executable(arguments)?)?;
        Ok(scene)
    }

    /// The system's authorities, and the one of the HTTPS server, as one file for `SSL_CERT_FILE`.
    pub(crate) fn authorities(&self) -> Result<PathBuf> {
        let path = self.folder.path().join("authorities.pem");
        let system = fs::read_to_string("/etc/ssl/certs/ca-certificates.crt")
            .map_err(|error| format!("the system's authorities (install ca-certificates): {error}"))?;
        fs::write(&path, format!("{system}\n{AUTHORITY}"))?;
        Ok(path)
    }

    fn this_executable(&self, arguments: &[&str]) -> Result<Value> {
        let record = self.record().to_string_lossy().into_owned();
        let arguments = arguments.iter().map(|&word| if word == "RECORD" { record.as_str() } else { word });
        let arguments: Vec<&str> = std::iter::once(worker::MARK).chain(arguments).collect();
        Ok(self.command(&std::env::current_exe()?, &arguments))
    }

    /// A runner whose worker is `cat` of a file, which is returned, too: so many lines of so many bytes.
    pub(crate) fn with_cat(lines: usize, line: usize) -> Result<(Self, PathBuf)> {
        let scene = Self::new()?;
        let file = scene.folder.path().join("output");
        fs::write(&file, format!("{}\n", "x".repeat(line - 1)).repeat(lines))?;
        scene.configure(&scene.command(Path::new("cat"), &[&file.to_string_lossy()]))?;
        Ok((scene, file))
    }

    /// A runner that starts no worker.
    pub(crate) fn with_dummy() -> Result<Self> {
        let scene = Self::new()?;
        scene.configure(&json!({"implementation": "dummy"}))?;
        Ok(scene)
    }

    fn new() -> Result<Self> {
        let folder = if Path::new(MEMORY).is_dir() { TempDir::new_in(MEMORY) } else { TempDir::new() };
        Ok(Self { folder: folder? })
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Value {
        json!({
            "implementation": "command",
            "path": program,
            "args": arguments,
            "configPath": self.folder.path().join("worker-configuration.json"),
        })
    }

    fn configure(&self, worker: &Value) -> Result<()> {
        let provider = json!({
            "providerType": "standalone",
            "rootURL": "https://tc.example.com",
            "clientID": "project/example/worker",
            "accessToken": "not-a-real-token",
            "workerPoolID": POOL,
            "workerGroup": GROUP,
            "workerID": WORKER,
        });
        self.write(&provider, false, worker)
    }

    fn write(&self, provider: &Value, get_secrets: bool, worker: &Value) -> Result<()> {
        let configuration = json!({
            "provider": provider,
            "getSecrets": get_secrets,
            "worker": worker,
            "workerConfig": {"cachesDir": "/caches", "tasksDir": "/tasks", "sentryProject": "example"},
            // Every crash is followed by a restart at once, as often as the benchmark wants.
            "supervision": {"maxRestarts": CRASHES, "backoff": {"initial": "0s", "max": "0s"}},
            "host": {
                "shutdownCommand": ["true"], "rebootCommand": ["true"],
                "forceShutdownCommand": ["true"], "forceRebootCommand": ["true"],
            },
        });
        fs::write(self.path(), configuration.to_string())?;
        fs::set_permissions(self.path(), Permissions::from_mode(0o600))?;
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("runner.yml")
    }

    /// The file in which the worker records its events with their times.
    pub(crate) fn record(&self) -> PathBuf {
        self.folder.path().join("record")
    }

    /// The moments at which this happened, in nanoseconds; they are forgotten.
    pub(crate) fn take_moments(&self, names: &[&str]) -> Result<Vec<Vec<f64>>> {
        let text = fs::read_to_string(self.record())?;
        fs::remove_file(self.record())?;
        let moments = |name: &&str| {
            let values = text.lines().filter_map(|line| line.strip_prefix(*name)?.strip_prefix(' '));
            Ok(values.map(str::parse).collect::<std::result::Result<_, _>>()?)
        };
        names.iter().map(moments).collect()
    }

    /// The runner; its log goes nowhere.
    pub(crate) fn runner(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .arg(self.path())
            .env("RUNTIME_DIRECTORY", self.folder.path())
            .env("STATE_DIRECTORY", self.folder.path())
            .env_remove("START_WORKER_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

/// Number of restarts after a crash.
pub(crate) const CRASHES: u32 = 200;
