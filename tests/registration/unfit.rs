//! `supervision.onUnfit`: generic-worker's exit 69 quarantines the worker, or makes the host hold.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use test_support::fake_taskcluster::WorkerKey;
use test_support::raw_http::{Request, Signature};

use crate::harness::{Runner, Scene};
use crate::registration::site::{GROUP, POOL, Site, WORKER};

const SCRIPT: [&str; 5] =
    ["on now: exit 0", "start 1: hello all ; exit 69", "hello all", "print ready", "wait"];

fn scene(site: &Site, on_unfit: &str) -> Scene {
    let scene = Scene::generic_worker();
    let socket = scene.path("status.sock");
    site.place(scene)
        .worker(SCRIPT)
        .set("supervision.onUnfit", on_unfit)
        .set("supervision.quarantineFor", "2h")
        .set("status.socket", socket.to_str().unwrap())
        .env("STATE_DIRECTORY", &site.text_path("state"))
}

fn key() -> WorkerKey {
    WorkerKey::new(POOL, GROUP, WORKER)
}

/// The queue knows the worker, as it does after the worker's first claim.
fn known_to_the_queue(site: &Site) {
    site.taskcluster.add_client("root", "root-token", &["*"]);
    let path = format!("/api/queue/v1/claim-work/{}", POOL.replace('/', "%2F"));
    let body = json!({"workerGroup": GROUP, "workerId": WORKER, "tasks": 1});
    let signature = Signature::new("root", "root-token", None);
    let address = site.taskcluster.address();
    let answer = Request::new("POST", &path).json(&body).signed(address, &signature).send(address).unwrap();
    assert_eq!(answer.status, 200);
}

fn may_quarantine(site: &Site) {
    let scope = format!("queue:quarantine-worker:{POOL}/*");
    site.taskcluster.grant(&format!("worker-pool:{POOL}"), &[&scope]);
}

fn ask(runner: &Runner, command: &[&str]) -> Value {
    let mut program = Command::new(env!("CARGO_BIN_EXE_start-worker"));
    let output = program.args(command).arg("--socket").arg(runner.path("status.sock")).output().unwrap();
    assert!(output.status.success(), "{output:?}\n{runner}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[track_caller]
fn resumes(runner: &Runner) {
    ask(runner, &["resume"]);
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0), "{runner}");
}

#[test]
fn an_unfit_worker_is_quarantined_and_its_host_waits_for_as_long_over_restarts_until_resume() {
    let site = Site::new();
    known_to_the_queue(&site);
    may_quarantine(&site);
    let runner = scene(&site, "quarantine").start();
    runner.wait_for_log("quarantined: the queue gives this worker no tasks");
    let until =
        site.taskcluster.queue_worker(&key()).unwrap()["quarantineUntil"].as_str().unwrap().to_owned();
    let left = until.parse::<jiff::Timestamp>().unwrap().duration_since(site.taskcluster.now());
    assert!(left.as_secs() > 7000 && left.as_secs() <= 7200, "{until}");
    let sent = site.bodies("quarantineWorker").remove(0);
    assert!(sent["quarantineInfo"].as_str().unwrap().contains("exit code 69"), "{sent}");
    runner.wait_for_log("earlier runs have failed: pausing");
    let status = ask(&runner, &["status", "--json"]);
    assert_eq!(status["state"], "backing off", "{status}");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0), "{runner}");
    let again = scene(&site, "quarantine").start();
    again.wait_for_log("earlier runs have failed: pausing");
    again.signal(Signal::SIGTERM);
    let ended = again.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
    let last =
        scene(&site, "quarantine").worker(["on now: exit 0", "hello all", "print ready", "wait"]).start();
    last.wait_for_log("earlier runs have failed: pausing");
    resumes(&last);
}

#[test]
fn without_the_scope_the_message_names_it_and_the_pools_role_and_the_host_holds() {
    let site = Site::new();
    known_to_the_queue(&site);
    let runner = scene(&site, "quarantine").start();
    let role = format!(
        "the role worker-pool:{POOL} lacks the scope queue:quarantine-worker:{POOL}/{GROUP}/{WORKER}"
    );
    runner.wait_for_log(&role);
    runner.wait_for_log("holding: ");
    let status = ask(&runner, &["status", "--json"]);
    assert_eq!(status["state"], "holding", "{status}");
    assert!(site.path("state").join("held").exists());
    resumes(&runner);
    assert!(!site.path("state").join("held").exists());
}

#[test]
fn a_worker_that_the_queue_does_not_know_holds() {
    let site = Site::new();
    may_quarantine(&site);
    let runner = scene(&site, "quarantine").start();
    runner.wait_for_log("the queue does not know this worker yet");
    runner.wait_for_log("holding: ");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0), "{runner}");
}

#[test]
fn a_host_that_is_to_hold_asks_the_queue_for_nothing_and_holds_at_its_next_start() {
    let site = Site::new();
    let runner = scene(&site, "hold").start();
    runner.wait_for_log("holding: ");
    let status = ask(&runner, &["status", "--json"]);
    assert_eq!(status["reason"], "the worker found this host unfit for tasks", "{status}");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0), "{runner}");
    let again = scene(&site, "hold").start();
    again.wait_for_log("holding: ");
    again.signal(Signal::SIGTERM);
    let ended = again.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
    assert_eq!(site.taskcluster.count("quarantineWorker"), 0);
}

#[test]
fn a_run_that_is_to_exit_is_not_restarted() {
    let site = Site::new();
    let ended = scene(&site, "exit").start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 1), "{}", ended.log);
    assert!(ended.after < Duration::from_secs(60));
}
