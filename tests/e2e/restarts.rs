//! Crashes: increasing pauses, a limit, and recovery.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Ended, Scene, named};

/// From each exit of the worker to its next start.
fn pauses(ended: &Ended) -> Vec<Duration> {
    let (exits, starts) = (named(&ended.events, "exit"), named(&ended.events, "start"));
    exits.iter().zip(starts.iter().skip(1)).map(|(exit, start)| start.after(exit)).collect()
}

#[test]
fn a_worker_that_crashes_again_and_again_is_given_up_on() {
    let scene = Scene::new().worker(["print crashing", "exit 7"]).set("supervision.maxRestarts", 3);
    let ended = scene.start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 4), "{}", ended.log);
    assert_eq!(ended.host_commands, [""; 0]);
}

#[test]
fn the_pause_before_a_restart_grows() {
    let scene = Scene::new().worker(["exit 7"]).set("supervision.maxRestarts", 4);
    let scene = scene.set("supervision.backoff", json!({"initial": "100ms", "max": "400ms"}));
    let ended = scene.start().ended();
    let pauses = pauses(&ended);
    assert_eq!((ended.code, pauses.len()), (Some(1), 4));
    for (pause, least) in pauses.iter().zip([100, 200, 400, 400]) {
        // Jitter may shorten it.
        assert!(*pause >= Duration::from_millis(least * 3 / 4), "{pauses:?}");
    }
}

#[test]
fn a_long_run_makes_the_crashes_before_it_forgotten() {
    let script = ["start 1: exit 7", "start 2: sleep 600ms ; exit 7", "start 3: exit 0"];
    for (window, expected) in [("300ms", (Some(0), 3)), ("1h", (Some(1), 2))] {
        let scene = Scene::new().worker(script).set("supervision.maxRestarts", 1);
        let ended = scene.set("supervision.restartWindow", window).start().ended();
        assert_eq!((ended.code, ended.starts()), expected, "{window}\n{}", ended.log);
    }
}

#[test]
fn without_restarts_one_crash_is_enough() {
    let ended = Scene::new().worker(["exit 7"]).set("supervision.restart", "never").start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 1), "{}", ended.log);
}

#[test]
fn with_restart_always_a_worker_that_is_done_is_started_again() {
    let scene =
        Scene::new().worker(["on now: exit 0", "start 1: exit 0", "hello all", "print ready", "wait"]);
    let runner = scene.set("supervision.restart", "always").start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 2), "{}", ended.log);
}

#[test]
fn each_start_finds_the_configuration_file_and_its_own_welcome() {
    let script = ["await welcome", "start 1: exit 7", "exit 0"];
    let ended = Scene::generic_worker().worker(script).start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 2), "{}", ended.log);
    assert_eq!(named(&ended.events, "message").len(), 2);
}

#[test]
fn a_hello_of_the_worker_before_does_not_count_for_the_next() {
    let script = ["start 1: hello all ; exit 7", "on SIGTERM: exit 0", "hello", "print ready", "wait"];
    let runner = Scene::new().worker(script).start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 2));
    assert_eq!(crate::harness::signals(&ended.events), ["SIGTERM"]);
}

#[test]
fn a_worker_may_ask_for_its_host_to_be_shut_down_once_and_where_that_is_allowed() {
    let shutdown = r#"send {"type":"shutdown"}"#;
    for (allowed, expected) in [(false, vec![]), (true, vec!["shutdown".to_owned()])] {
        let scene = Scene::new().worker(["hello all", shutdown, shutdown, "sleep 200ms", "exit 0"]);
        let ended = scene.set("host.shutdownStatic", allowed).start().ended();
        assert_eq!((ended.code, ended.host_commands), (Some(0), expected), "{}", ended.log);
    }
}

#[test]
fn a_reboot_command_that_works_is_not_called_a_failure() {
    for _ in 0..5 {
        let scene = Scene::generic_worker().worker(["exit 67"]).set("supervision.onReboot", "reboot");
        let scene = scene.set("worker.restartInPlace", false).set("supervision.rebootTimeout", "200ms");
        let ended = scene.start().ended();
        assert_eq!(
            (ended.code, ended.host_commands),
            (Some(70), ["reboot", "force-reboot"].map(str::to_owned).to_vec()),
            "{}",
            ended.log
        );
        assert!(!ended.log.contains("host command failed"), "{}", ended.log);
    }
}

/// The resources of a runner: open files, threads, and private memory in KiB.
fn held(pid: i32) -> (usize, usize, u64) {
    let count = |folder: &str| std::fs::read_dir(format!("/proc/{pid}/{folder}")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    (count("fd"), count("task"), line.trim().trim_end_matches(" kB").parse().unwrap())
}

#[test]
fn a_hundred_restarts_leave_no_file_open_no_thread_and_no_memory_behind() {
    let script = ["hello all", "log a record", "print a line", "spawn daemon", "exit 0"];
    let scene = Scene::new().worker(script).set("supervision.restart", "always");
    let runner = scene.set("supervision.backoff", json!({"initial": "1ms", "max": "1ms"})).start();
    // By then whatever is made once has been made.
    runner.wait_for_start(20);
    let (files, threads, memory) = held(runner.pid());
    // Each of them within the deadline: so many take their time on a busy host.
    for count in (40..=120).step_by(20) {
        runner.wait_for_start(count);
    }
    let (files_after, threads_after, memory_after) = held(runner.pid());
    // A worker that is being started has its pipes.
    assert!(files_after <= files + 8, "{files} open files, then {files_after}\n{runner}");
    assert!(threads_after <= threads + 2, "{threads} threads, then {threads_after}\n{runner}");
    assert!(memory_after <= memory + 1024, "{memory} KiB, then {memory_after} KiB\n{runner}");
    let zombies = runner.children().iter().filter(|child| format!("{child:?}").contains("(Z")).count();
    assert!(zombies <= 2, "{:?}", runner.children());
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
}
