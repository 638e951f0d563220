//! docs/providers/static.md, executed: a static worker is created, and its secret is rotated while it has a task.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use test_support::fake_taskcluster::{FakeTaskcluster, WorkerKey};

use crate::harness::{Scene, eventually, messages, write_program};

const PAGE: &str = include_str!("../../docs/providers/static.md");

/// Taskcluster's command-line client, as far as the page uses it: the call goes to the test, which answers by removing it.
const CLIENT: &str = r#"#!/bin/bash
set -eu
[ "$1 $2 $#" = "api workerManager 6" ]
{ printf '%s\n' "${@:3}"; cat; } >"$FOLDER/call.new"
mv "$FOLDER/call.new" "$FOLDER/call"
while [ -e "$FOLDER/call" ]; do sleep 0.02; done
"#;

/// The page's blocks of commands, without those that name what differs from host to host.
fn blocks() -> Vec<&'static str> {
    let blocks = PAGE.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    blocks.skip(1).collect()
}

struct Host {
    taskcluster: FakeTaskcluster,
    scene: Scene,
    folder: std::path::PathBuf,
}

impl Host {
    fn new() -> Self {
        let taskcluster = FakeTaskcluster::start();
        taskcluster.set_pool("demo/linux", json!({"config": {}}));
        let url = taskcluster.url();
        let scene = Scene::new().text(&format!(
            "provider:
  providerType: static
  rootURL: {url}
  providerID: static
  workerPoolID: demo/linux
  workerGroup: here
  workerID: worker-1
  staticSecret:
worker:
  implementation: command
  path: {{worker}}
  args: ['on finish: note asked ; wait-file {{dir}}/finished ; exit 0', 'on now: exit 9', 'hello all', 'print ready', 'wait']
  configPath: {{dir}}/worker.json
host: {{shutdownCommand: ['true'], rebootCommand: ['true'], forceShutdownCommand: ['true'], forceRebootCommand: ['true']}}
status: {{socket: {{dir}}/status.sock}}
getSecrets: false
deployment: {{poll: false}}
"
        ));
        let folder = scene.path("");
        scene.write();
        let programs = folder.join("bin");
        fs::create_dir(&programs).unwrap();
        write_program(&programs.join("taskcluster"), CLIENT);
        write_program(&programs.join("systemctl"), "#!/bin/sh\necho \"$@\" >>\"$FOLDER/systemctl\"\n");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_start-worker"), programs.join("start-worker"))
            .unwrap();
        Self { taskcluster, scene, folder }
    }

    /// Executes commands of the page; `meanwhile` is done again and again until they have ended.
    fn execute(&self, commands: &str, meanwhile: impl Fn()) -> Output {
        let path = format!("{}:{}", self.folder.join("bin").display(), std::env::var("PATH").unwrap());
        let names = format!(
            "POOL=demo/linux GROUP=here ID=worker-1 CONFIG='{}'",
            self.folder.join("runner.yml").display()
        );
        let mut shell = Command::new("timeout");
        shell.args(["60", "bash", "-euo", "pipefail", "-c", &format!("{names}\n{commands}")]);
        shell.env("PATH", path).env("FOLDER", &self.folder).env("RUNTIME_DIRECTORY", &self.folder);
        let mut shell =
            shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let ended = eventually(|| {
            self.answer();
            meanwhile();
            shell.try_wait().unwrap()
        });
        assert!(ended.is_some(), "the commands do not end: {commands}");
        let output = shell.wait_with_output().unwrap();
        assert!(output.status.success(), "{commands}\n{output:?}");
        output
    }

    /// worker-manager's answer to a call of the client.
    fn answer(&self) {
        let call = self.folder.join("call");
        let Ok(text) = fs::read_to_string(&call) else { return };
        let [method, pool, group, id, payload] = text.splitn(5, '\n').collect::<Vec<_>>()[..] else {
            panic!("a call: {text}")
        };
        let payload: Value = serde_json::from_str(payload).unwrap();
        let expires: jiff::Timestamp = payload["expires"].as_str().unwrap().parse().unwrap();
        assert!(expires > jiff::Timestamp::now() && payload["capacity"] == 1, "{payload}");
        let secret = payload["providerInfo"]["staticSecret"].as_str().unwrap();
        assert_eq!(secret.len(), 44);
        match method {
            "createWorker" => {
                let worker = self.taskcluster.add_static_worker(pool, group, id, secret);
                self.taskcluster.set_worker_expires(&worker, expires);
            }
            "updateWorker" => self.taskcluster.set_static_secret(&WorkerKey::new(pool, group, id), secret),
            other => panic!("{other}"),
        }
        fs::remove_file(call).unwrap();
    }

    /// The secret in the runner configuration.
    fn secret(&self) -> String {
        let text = fs::read_to_string(self.folder.join("runner.yml")).unwrap();
        let (_, rest) = text.split_once("staticSecret:").unwrap();
        rest.lines().next().unwrap().trim().to_owned()
    }

    /// The secrets that registrations were made with, and what came of them.
    fn registrations(&self) -> Vec<(String, Option<u16>)> {
        let requests = self.taskcluster.requests();
        let registrations = requests.iter().filter(|request| request.call == "registerWorker");
        registrations
            .map(|request| {
                let body = request.body.as_ref().unwrap();
                (body["workerIdentityProof"]["staticSecret"].as_str().unwrap().to_owned(), request.status)
            })
            .collect()
    }
}

#[test]
fn the_commands_of_the_page_create_a_worker_and_rotate_its_secret_without_losing_its_task() {
    let host = Host::new();
    let blocks = blocks();
    let [secret, create, configure, rotate, restart] = &blocks[..] else {
        panic!("the page has other steps than this test: {blocks:#?}")
    };
    host.execute(&[*secret, *create, *configure].join("\n"), || ());
    let first = host.secret();
    let config = host.folder.join("runner.yml");
    let another = Scene::new();
    let runner = another.start_with([config.as_os_str()]);
    runner.wait_for_log("ready");

    host.execute(rotate, || ());
    let second = host.secret();
    assert_ne!(first, second);
    assert!(runner.is_running() && messages(&runner.events()) == ["welcome"], "{runner}");

    let finished = host.folder.join("finished");
    host.execute(restart, || {
        // The task ends some time after the drain was asked for.
        let asked =
            runner.events().iter().any(|event| event.name() == "note" && event.text("text") == "asked");
        if asked && !Path::new(&finished).exists() {
            fs::write(&finished, "").unwrap();
        }
    });
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(messages(&ended.events), ["welcome", "finish"], "{}", ended.log);
    assert_eq!(fs::read_to_string(host.folder.join("systemctl")).unwrap(), "start start-worker\n");

    let runner = Scene::new().start_with([config.as_os_str()]);
    runner.wait_for_log("ready");
    assert_eq!(host.registrations(), [(first, Some(200)), (second, Some(200))]);
    fs::remove_file(&finished).unwrap();
    runner.signal(Signal::SIGTERM);
    runner.ended();
    drop(host.scene);
}
