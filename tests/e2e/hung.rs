//! A disk that does not answer: whatever path is on it, the runner answers, ends, and says which path it is.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::hung_disk::{HungDisk, Wait, with_hung_disk};
use crate::stuck::waits_for_disk;
use crate::support::{Runner, Scene, eventually, is_root};

const SECRET: &str = "made-up-secret-of-forty-four-characters-1234";

/// Puts one path of the runner on the disk.
type Place = (&'static str, fn(Scene, &HungDisk) -> Scene);

const PLACES: [Place; 9] = [
    ("cacheOverRestarts", |scene, disk| scene.set("cacheOverRestarts", text(&disk.path("cache.json")))),
    ("worker.path", |scene, disk| scene.set("worker.path", text(&disk.path("worker")))),
    ("worker.configPath", |scene, disk| scene.set("worker.configPath", text(&disk.path("worker.json")))),
    ("worker.cwd", |scene, disk| scene.set("worker.cwd", text(&disk.path("")))),
    ("status.socket", |scene, disk| scene.set("status.socket", text(&disk.path("status.sock")))),
    ("state directory", |scene, disk| scene.env("STATE_DIRECTORY", &text(&disk.path("")))),
    ("runtime directory", |scene, disk| scene.env("RUNTIME_DIRECTORY", &text(&disk.path("")))),
    ("autologin.root", |scene, disk| scene.set("autologin.root", text(&disk.path("")))),
    ("SSL_CERT_FILE", |scene, disk| {
        scene
            .set(
                "provider",
                json!({
                    "providerType": "static", "rootURL": "https://127.0.0.1:1", "providerID": "p",
                    "workerPoolID": "pp/ww", "workerGroup": "wg", "workerID": "w", "staticSecret": SECRET,
                }),
            )
            .env("SSL_CERT_FILE", &text(&disk.path("certificates")))
    }),
];

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn patient() -> Scene {
    let scene = Scene::new().worker(["on now: exit 0", "hello all", "print ready", "wait"]);
    let socket = text(&scene.path("status.sock"));
    scene.set("status.socket", socket)
}

/// Whether the runner, or a process that it has started, waits for the disk.
fn somebody_waits(runner: &Runner) -> bool {
    waits_for_disk(runner.pid()) || runner.children().iter().any(|child| waits_for_disk(child.pid))
}

fn status(runner: &Runner) -> Option<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
    let output =
        command.args(["status", "--json", "--socket"]).arg(runner.path("status.sock")).output().unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

fn answers_and_ends(wait: Wait) {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    for (name, put) in PLACES {
        let scene = patient();
        let _runner = with_hung_disk(wait, |disk| {
            let runner = put(scene, disk).start();
            eventually(|| somebody_waits(&runner).then_some(()))
                .unwrap_or_else(|| panic!("{name}: not used\n{runner}"));
            if name != "status.socket" {
                eventually(|| status(&runner)).unwrap_or_else(|| panic!("{name}: no status\n{runner}"));
            }
            runner.signal(Signal::SIGTERM);
            let ended = runner.ended();
            assert_eq!(ended.code, Some(0), "{name}: {}", ended.log);
            runner
        });
    }
}

#[test]
fn with_any_path_on_a_disk_that_takes_no_request_status_answers_and_sigterm_ends_the_runner() {
    answers_and_ends(Wait::Killable);
}

#[test]
fn with_any_path_on_a_disk_whose_server_has_hung_status_answers_and_sigterm_ends_the_runner() {
    answers_and_ends(Wait::Endless);
}

#[test]
fn a_runner_configuration_that_cannot_be_read_does_not_keep_the_runner() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    let scene = patient();
    let _runner = with_hung_disk(Wait::Endless, |disk| {
        let runner = scene.start_with([disk.path("runner.yml")]);
        eventually(|| somebody_waits(&runner).then_some(())).expect("the file is not read");
        runner.signal(Signal::SIGTERM);
        runner.ended();
        runner
    });
}
