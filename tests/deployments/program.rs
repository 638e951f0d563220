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

use crate::deployments::server::{POOL, REGISTER, Reply, Server};

const DEADLINE: Duration = Duration::from_secs(60);

/// A static worker that runs until there is a file `go`, which it takes away.
struct Program {
    runner: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    folder: tempfile::TempDir,
}

impl Program {
    fn start(server: &Server) -> Self {
        register(server, "d1");
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("runner.yml");
        let text = format!(
            r#"
provider: {{providerType: static, rootURL: "{}", providerID: p, workerPoolID: pp/ww, workerGroup: wg, workerID: wi,
  staticSecret: abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQR}}
getSecrets: false
worker: {{implementation: command, path: /bin/sh, args: ["-c", "until rm {go} 2>/dev/null; do sleep 0.05; done"]}}
supervision: {{stopTimeout: 1s, killTimeout: 1s}}
deployment: {{poll: false}}
host: {{shutdownCommand: ["true"], rebootCommand: ["true"], forceShutdownCommand: ["true"], forceRebootCommand: ["true"]}}
"#,
            server.root_url,
            go = folder.path().join("go").display()
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
        Self { runner, lines, seen: Vec::new(), folder }
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

    /// Makes the worker end.
    fn go(&self) {
        std::fs::write(self.folder.path().join("go"), "").unwrap();
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

/// Registrations from now on are of this deployment.
fn register(server: &Server, deployment: &str) {
    let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    server.tell(
        REGISTER,
        Reply::ok(&json!({
            "expires": expires.to_string(), "credentials": {"clientId": "c", "accessToken": "hush"},
            "workerConfig": {"command": {"config": {"deploymentId": deployment}, "files": []}},
            "secret": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQR",
        })),
    );
}

fn wait_until_asked(server: &Server, call: &str, times: usize) {
    let deadline = Instant::now() + DEADLINE;
    while server.asked(call) < times {
        assert!(Instant::now() < deadline, "{call} was not called {times} times");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn sighup_finds_a_new_deployment_and_the_worker_is_started_again_with_it() {
    let server = Server::start();
    server.tell(POOL, pool("d1"));
    let mut program = Program::start(&server);
    program.wait_for("worker started");
    program.signal(Signal::SIGHUP);
    program.wait_for("received a signal to reload: checking for a new deployment signal=SIGHUP");
    wait_until_asked(&server, POOL, 1);
    server.tell(POOL, pool("d2"));
    program.signal(Signal::SIGHUP);
    program.wait_for(
        "the worker pool has a new deployment: asking the worker to finish its tasks what=deploymentId old=d1 new=d2",
    );
    assert_eq!(server.asked(REGISTER), 1);
    register(&server, "d2");
    program.go();
    program.wait_for("worker started");
    assert_eq!(server.asked(REGISTER), 2);
    // The registration is now current.
    program.signal(Signal::SIGHUP);
    wait_until_asked(&server, POOL, 3);
    server.tell(POOL, pool("d3"));
    program.signal(Signal::SIGHUP);
    program.wait_for("what=deploymentId old=d2 new=d3");
}

#[test]
fn a_registration_that_fails_lets_the_worker_go_on_and_the_next_look_tries_again() {
    let server = Server::start();
    server.tell(POOL, pool("d2"));
    let mut program = Program::start(&server);
    program.wait_for("worker started");
    program.signal(Signal::SIGHUP);
    program.wait_for("old=d1 new=d2");
    let refusal = json!({"code": "InputError", "message": "bad staticSecret in workerIdentityProof"});
    server.tell(REGISTER, Reply::Answer(400, refusal.to_string()));
    program.go();
    program.wait_for("worker started");
    program.signal(Signal::SIGHUP);
    program.wait_for("old=d1 new=d2");
    register(&server, "d2");
    program.go();
    program.wait_for("worker started");
    assert_eq!(server.asked(REGISTER), 3);
}
