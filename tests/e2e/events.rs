//! `events.file`: what monitoring reads.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Runner, Scene, eventually};

fn events(runner: &Runner) -> Vec<Value> {
    let text = std::fs::read_to_string(runner.path("events.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn names(runner: &Runner) -> Vec<String> {
    events(runner).iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
}

fn scene<const N: usize>(script: [&str; N]) -> Scene {
    let scene = Scene::new().worker(script);
    let file = scene.path("events.jsonl");
    scene.set("events.file", file.to_str().unwrap())
}

#[test]
fn each_event_is_a_line_of_json_with_the_boot_the_time_and_its_facts() {
    let runner = scene(["start 1: exit 3", "hello all", "on now: exit 0", "print ready", "wait"]).start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    let expected =
        ["boot", "runner-start", "worker-start", "worker-exit", "worker-start", "worker-exit", "runner-end"];
    assert_eq!(names(&runner), expected);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let all = events(&runner);
    for event in &all {
        assert_eq!(event["bootID"], boot.trim());
        assert_eq!(event["version"], env!("CARGO_PKG_VERSION"));
        event["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    }
    assert_eq!((&all[3]["status"], &all[3]["class"]), (&"exit code 3".into(), &"crash".into()));
    assert_eq!(all[2]["pid"], runner.wait_for_start(1).pid());
    assert_eq!(all[6]["outcome"], "stopped as asked");
}

#[test]
fn a_hold_and_a_resume_are_noted_and_a_reboot_that_is_asked_for() {
    let scene = scene(["exit 0"]);
    let (socket, go) = (scene.path("status.sock"), scene.path("go"));
    let script = [format!("start 1: hello all ; print ready ; wait-file {} ; exit 67", go.display())];
    let scene = scene
        .worker(script)
        .set("status.socket", socket.to_str().unwrap())
        .set("supervision.onReboot", "reboot")
        .set("supervision.rebootTimeout", "100ms")
        .set("host.forceRebootCommand", serde_json::json!(["true"]));
    let runner = scene.start();
    runner.wait_for_log("ready");
    for command in [&["hold", "--reason", "new disk"][..], &["resume"]] {
        let said = Command::new(env!("CARGO_BIN_EXE_start-worker"))
            .args(command)
            .arg("--socket")
            .arg(&socket)
            .output()
            .unwrap();
        assert!(said.status.success(), "{said:?}");
        let noted = eventually(|| names(&runner).contains(&command[0].to_owned()).then_some(()));
        assert!(noted.is_some(), "{:?}", names(&runner));
    }
    std::fs::write(&go, "").unwrap();
    runner.ended();
    let all = events(&runner);
    let hold = all.iter().find(|event| event["event"] == "hold").unwrap();
    assert_eq!(hold["reason"], "new disk");
    assert!(names(&runner).contains(&"reboot-requested".to_owned()), "{:?}", names(&runner));
}

#[test]
fn a_file_that_cannot_be_written_is_one_warning_and_no_harm() {
    let scene = scene(["start 1: exit 3", "exit 0"]);
    std::fs::create_dir(scene.path("events.jsonl")).unwrap();
    let runner = scene.start();
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 2), "{}", ended.log);
    assert_eq!(ended.log.matches("cannot write to events.file").count(), 1, "{}", ended.log);
}
