//! SIGHUP, and the real program.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::server::{POOL, REGISTER, Reply, Server};

const DEADLINE: Duration = Duration::from_secs(60);

/// A static worker that sleeps.
struct Program {
    runner: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Program {
    fn start(server: &Server) -> Self {
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
        server.tell(
            REGISTER,
            Reply::ok(&json!({
                "expires": expires.to_string(), "credentials": {"clientId": "c", "accessToken": "hush"},
                "workerConfig": {"command": {"config": {"deploymentId": "d1"}, "files": []}},
                "secret": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQR",
            })),
        );
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("runner.yml");
        let text = format!(
            r#"
provider: {{providerType: static, rootURL: "{}", providerID: p, workerPoolID: pp/ww, workerGroup: wg, workerID: wi,
  staticSecret: abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQR}}
getSecrets: false
worker: {{implementation: command, path: /bin/sleep, args: ["300"]}}
supervision: {{stopTimeout: 1s, killTimeout: 1s}}
deployment: {{poll: false}}
"#,
            server.root_url
        );
        std::fs::write(&config, text).unwrap();
        std::fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
        let mut runner = Command::new(env!("CARGO_BIN_EXE_start-worker"))
            .arg(&config)
            .env("RUNTIME_DIRECTORY", folder.path())
            .env("STATE_DIRECTORY", folder.path())
            .env_remove("START_WORKER_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(runner.stderr.take().unwrap());
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { runner, lines, seen: Vec::new(), _folder: folder }
    }

    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.seen.last().is_some_and(|line| line.contains(text)) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("no line with {text:?}: {error}; seen: {:#?}", self.seen),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.runner.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.runner.kill();
        let _ = self.runner.wait();
    }
}

fn pool(deployment: &str) -> Reply {
    Reply::pool(&json!({"workerConfig": {"command": {"config": {"deploymentId": deployment}}}}))
}

#[test]
fn sighup_makes_the_program_look_for_a_new_deployment_at_once() {
    let server = Server::start();
    server.tell(POOL, pool("d1"));
    let mut program = Program::start(&server);
    program.wait_for("worker started");
    program.signal(Signal::SIGHUP);
    program.wait_for("received a signal to reload: checking for a new deployment signal=SIGHUP");
    let deadline = Instant::now() + DEADLINE;
    while server.asked(POOL) == 0 {
        assert!(Instant::now() < deadline, "the pool was not looked at");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    server.tell(POOL, pool("d2"));
    program.signal(Signal::SIGHUP);
    program.wait_for(
        "the worker pool has a new deployment: asking the worker to finish its tasks what=deploymentId old=d1 new=d2",
    );
}
