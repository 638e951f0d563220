//! A worker that is stuck in the kernel, in state D: SIGKILL does not end it, and yet start-worker ends.

use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::hung_disk::{HungDisk, Wait, somebody_waits, waits_for_disk, with_hung_disk};
use crate::harness::{Runner, Scene, eventually, is_root, wait_until};

/// A worker whose main thread waits for a disk that never answers.
fn stuck(scene: Scene, disk: &HungDisk) -> Runner {
    let wait = format!("wait-file {}", disk.path("x").display());
    let runner = scene
        .worker(["hello all", "print ready", &wait])
        .set("supervision.stopTimeout", "300ms")
        .set("supervision.killTimeout", "300ms")
        .start();
    runner.wait_for_log("ready");
    let waits = eventually(|| runner.children().iter().any(|child| waits_for_disk(child.pid)).then_some(()));
    assert!(waits.is_some(), "nobody waits for the disk: {:?}\n{runner}", runner.children());
    runner
}

#[track_caller]
fn assert_given_up(runner: &Runner) {
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 1), "{}", ended.log);
    let line = ended.log.lines().find(|line| line.contains("worker cannot be killed")).unwrap_or_default();
    assert!(line.contains("state=D waits_in=request_wait_answer"), "{}", ended.log);
    assert_eq!(ended.log.matches(" ERROR ").count(), 2, "one for the worker, one for the end\n{}", ended.log);
    assert!(ended.log.contains("start-worker ends: the worker cannot be killed"), "{}", ended.log);
}

#[test]
fn a_stop_ends_although_the_worker_cannot_be_killed() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    let scene = Scene::new();
    let _runner = with_hung_disk(Wait::Endless, |disk| {
        let runner = stuck(scene, disk);
        runner.signal(Signal::SIGTERM);
        assert_given_up(&runner);
        runner
    });
}

#[test]
fn a_second_stop_ends_although_the_worker_cannot_be_killed() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    let scene = Scene::new().set("supervision.stopTimeout", "1h");
    let _runner = with_hung_disk(Wait::Endless, |disk| {
        let runner = stuck(scene, disk);
        let first = runner.signal(Signal::SIGTERM);
        wait_until(first + Duration::from_millis(1100));
        if runner.is_running() {
            runner.signal(Signal::SIGTERM);
        }
        assert_given_up(&runner);
        runner
    });
}

/// Waits until reading about this process blocks. Threads of this program must not try that, because they would block,
/// too.
#[track_caller]
fn wait_until_it_hangs_others(pid: i32) {
    let mut look = || {
        let mut looking =
            Command::new("cat").arg(format!("/proc/{pid}/environ")).stdout(Stdio::null()).spawn().unwrap();
        let waits = || {
            let status =
                std::fs::read_to_string(format!("/proc/{}/status", looking.id())).unwrap_or_default();
            let state = status.lines().find_map(|line| line.strip_prefix("State:\t")).unwrap_or_default();
            matches!(state.chars().next(), Some('D' | 'Z')).then(|| state.starts_with('D'))
        };
        let waits = eventually(waits);
        looking.kill().unwrap();
        looking.wait().unwrap();
        waits.filter(|waits| *waits).map(drop)
    };
    eventually(&mut look).expect("it hangs nobody");
}

#[test]
fn a_process_that_hangs_whoever_looks_at_it_keeps_the_runner_from_nothing() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    // Without strangers every descendant is the worker's; beside a sidecar its environment tells, and after a host command.
    for (before, first) in [
        ("true", "note first"),
        ("sleep 1000 >/dev/null 2>&1 & true", "note first"),
        ("true", r#"send {"type": "shutdown"}"#),
    ] {
        let scene = Scene::new();
        let socket = scene.path("status.sock");
        let scene = scene.set("status.socket", socket.to_str().unwrap()).after(before.to_owned());
        let scene = scene
            .set("host.shutdownStatic", true)
            .set("host.shutdownCommand", json!(["/bin/true"]))
            .set("supervision.rebootTimeout", "1s");
        // It outlives the disk, because the harness checks its processes at the end.
        let mut kept = None;
        with_hung_disk(Wait::Close, |disk| {
            let spawn = format!("spawn daemon closes={}", disk.path("x").display());
            let script = ["on now: exit 0", "hello all", first, &spawn, "print ready", "wait"];
            let runner = kept.insert(scene.worker(script).start());
            runner.wait_for_log("ready");
            wait_until_it_hangs_others(runner.wait_for_event("descendant").pid());
            let status = || {
                let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
                let output = command.args(["status", "--json", "--socket"]).arg(&socket).output().unwrap();
                serde_json::from_slice::<Value>(&output.stdout).ok()
            };
            eventually(status).unwrap_or_else(|| panic!("{before}: no status\n{runner}"));
            runner.signal(Signal::SIGTERM);
            let ended = runner.ended();
            let last = ended.log.lines().last().unwrap_or_default();
            assert!(last.contains("start-worker ends"), "{before}: {}", ended.log);
            let named = ended.log.contains("processes that the worker left behind cannot be killed");
            assert!(named || before != "true", "{}", ended.log);
        });
    }
}

#[test]
fn a_stop_ends_a_start_whose_configuration_is_on_a_disk_that_does_not_answer() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
        let scene = Scene::new();
        with_hung_disk(Wait::Killable, |disk| {
            let runner = scene.start_with([disk.path("runner.yml").as_os_str()]);
            let hangs = eventually(|| somebody_waits(&runner).then_some(()));
            assert!(hangs.is_some(), "{runner}");
            // A reload is none.
            runner.signal(Signal::SIGHUP);
            runner.signal(signal);
            let ended = runner.ended();
            assert_eq!(ended.code, Some(0), "{}", ended.log);
            assert!(ended.log.contains("stopped before the runner configuration"), "{}", ended.log);
        });
    }
}
