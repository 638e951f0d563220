//! Features that replace a wrapper script on hardware hosts: tasks that are counted, limits, and what follows a run.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Runner, Scene, eventually};

/// A worker that does one task and then waits, for the drain that a limit brings.
const ONE_TASK: [&str; 6] =
    ["on finish: exit 0", "on now: exit 0", "hello all", "metrics taskStart", "metrics taskFinish", "wait"];

fn open(scene: Scene) -> Scene {
    let path = scene.path("status.sock");
    scene.set("status.socket", path.to_str().unwrap())
}

fn status(runner: &Runner) -> Value {
    let socket = runner.path("status.sock");
    let output = Command::new(env!("CARGO_BIN_EXE_start-worker"))
        .args(["status", "--json", "--socket"])
        .arg(socket)
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[track_caller]
fn wait_for_tasks(runner: &Runner, fits: impl Fn(&Value) -> bool) -> Value {
    let found = eventually(|| Some(status(runner)["tasks"].clone()).filter(&fits));
    found.unwrap_or_else(|| panic!("{}\n{runner}", status(runner)))
}

/// A host whose commands end the runner, as a host that goes down does.
fn obedient_host(scene: Scene) -> Scene {
    let down = |name: &str| {
        let record = format!("echo {name} >> {}; kill -TERM $PPID", scene.path("host-commands").display());
        json!(["/bin/sh", "-c", record])
    };
    let (reboot, shutdown) = (down("reboot"), down("shutdown"));
    scene.set("host.rebootCommand", reboot).set("host.shutdownCommand", shutdown)
}

/// A host that ignores its commands.
fn deaf_host(scene: Scene) -> Scene {
    let record = format!("echo shutdown >> {}", scene.path("host-commands").display());
    scene
        .set("host.shutdownCommand", json!(["/bin/sh", "-c", record]))
        .set("supervision.rebootTimeout", "100ms")
}

#[test]
fn status_tells_whether_a_task_runs_and_how_the_last_one_ended() {
    let scene = open(Scene::generic_worker());
    let [go, again] = ["go", "again"].map(|name| format!("wait-file {}", scene.path(name).display()));
    let first = format!(
        "start 1: hello all ; metrics taskStart ; {go} ; metrics taskFinish ; metrics taskStart ; {again} ; exit 3"
    );
    let runner = scene.worker(["on SIGTERM: exit 0", &first, "wait"]).start();
    let running = wait_for_tasks(&runner, |tasks| tasks["running"] == 1);
    assert!(running["since"].is_string() && running["last"].is_null(), "{running}");
    std::fs::write(runner.path("go"), "").unwrap();
    let second = wait_for_tasks(&runner, |tasks| tasks["finished"] == 1 && tasks["running"] == 1);
    assert_eq!((&second["last"]["result"], &second["lost"]), (&json!("finished"), &json!(0)), "{second}");
    std::fs::write(runner.path("again"), "").unwrap();
    let lost = wait_for_tasks(&runner, |tasks| tasks["lost"] == 1);
    assert_eq!((&lost["running"], &lost["since"]), (&json!(0), &Value::Null), "{lost}");
    assert_eq!((&lost["last"]["result"], &lost["finished"]), (&json!("lost"), &json!(1)), "{lost}");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0), "{runner}");
}

#[test]
fn a_worker_that_does_not_tell_of_its_tasks_has_none() {
    let runner = open(Scene::new()).worker(["on SIGTERM: exit 0", "print ready", "wait"]).start();
    runner.wait_for_log("ready");
    assert_eq!(status(&runner)["tasks"], Value::Null);
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn one_task_a_boot_drains_after_the_task_and_reboots_the_host() {
    let scene = obedient_host(Scene::generic_worker().worker(ONE_TASK));
    let scene = scene.set("supervision.maxTasks", 1).set("supervision.afterRun", "reboot");
    let ended = scene.start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!(ended.host_commands, ["reboot"], "{}", ended.log);
}

#[test]
fn a_worker_that_has_run_for_long_enough_is_drained_and_its_host_shut_down() {
    let scene = obedient_host(Scene::new().worker(["on finish: exit 0", "hello all", "wait"]));
    let scene = scene.set("supervision.maxUptime", "200ms").set("supervision.afterRun", "poweroff");
    let ended = scene.start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!(ended.host_commands, ["shutdown"], "{}", ended.log);
}

#[test]
fn every_end_that_nobody_asked_for_takes_the_host_down_through_the_whole_ladder() {
    let cells = [("reboot", ["reboot", "force-reboot"]), ("poweroff", ["shutdown", "force-shutdown"])];
    for (after_run, commands) in cells {
        for exit in ["exit 0", "exit 67", "exit 68", "exit 3", "exit 69", "exit 73"] {
            let scene = deaf_host(Scene::generic_worker().worker([exit]));
            let scene = scene.set("supervision.restart", "never").set("supervision.afterRun", after_run);
            let ended = scene.start().ended();
            assert_eq!((ended.code, ended.starts()), (Some(70), 1), "{after_run} {exit}\n{}", ended.log);
            assert_eq!(ended.host_commands, commands, "{after_run} {exit}\n{}", ended.log);
            assert!(ended.log.contains("nothing has taken it down"), "{}", ended.log);
        }
    }
}

#[test]
fn an_operators_stop_or_drain_and_a_restart_take_no_host_down() {
    for signal in [Signal::SIGTERM, Signal::SIGUSR1] {
        let script = ["on now: exit 0", "on finish: exit 0", "hello all", "print ready", "wait"];
        let runner = deaf_host(Scene::new().worker(script)).set("supervision.afterRun", "reboot").start();
        runner.wait_for_log("ready");
        runner.signal(signal);
        let ended = runner.ended();
        assert_eq!((ended.code, ended.host_commands.len()), (Some(0), 0), "{signal}\n{}", ended.log);
    }
    let script = ["on SIGTERM: exit 0", "start 1: exit 3", "print ready", "wait"];
    let runner = deaf_host(Scene::new().worker(script)).set("supervision.afterRun", "reboot").start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.host_commands.len()), (Some(0), 0), "{}", ended.log);
}

#[test]
fn check_warns_of_keys_that_have_no_effect() {
    let check = |scene: Scene| {
        let path = scene.write();
        let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
        let output = command.arg("check").arg(path).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let told = check(Scene::new().set("supervision.maxTasks", 1));
    assert!(told.contains("supervision.maxTasks: has no effect with implementation command"), "{told}");
    let scene = Scene::generic_worker().set("provider", json!({"providerType": "aws"}));
    let told = check(scene.set("supervision.afterRun", "reboot"));
    assert!(told.contains("supervision.afterRun: has no effect with providerType aws"), "{told}");
    let quiet = Scene::generic_worker().set("supervision.maxTasks", 1).set("supervision.afterRun", "reboot");
    assert!(!check(quiet).contains("has no effect"));
}
