//! A worker that behaves as generic-worker 106 was seen to: it acts on the first request to end only, hangs after its
//! last task in a drain, and takes its time.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Scene, TOLERANCE, messages, named, signals};

fn told(messages: &[String]) -> Vec<&str> {
    messages.iter().map(String::as_str).skip(1).collect()
}

fn scene(script: &[&str]) -> Scene {
    let mut all = vec!["first-only"];
    all.extend(script);
    let scene = Scene::generic_worker().worker(all).set("supervision.drainTimeout", "1h");
    scene.set("supervision.stopTimeout", "500ms").set("supervision.killTimeout", "200ms")
}

#[test]
fn it_may_take_its_time_to_stop() {
    let script = ["on now: sleep 800ms ; exit 72", "hello all", "print ready", "wait"];
    let runner = scene(&script).set("supervision.stopTimeout", "10s").start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, named(&ended.events, "exit").len()), (Some(0), 1), "{}", ended.log);
    assert_eq!(signals(&ended.events), [""; 0]);
}

#[test]
fn one_that_heard_only_the_drain_is_killed_by_the_stop_that_follows() {
    let script =
        ["on finish: wait", "on now: exit 72", "on SIGTERM: exit 72", "hello all", "print ready", "wait"];
    let runner = scene(&script).start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGUSR1);
    runner.wait_for_graceful_termination(true);
    let stopped = runner.signal(Signal::SIGTERM);
    let took = runner.end() - stopped;
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!(told(&messages(&ended.events)), ["finish", "now"]);
    assert_eq!(signals(&ended.events), ["SIGTERM"]);
    assert!(named(&ended.events, "exit").is_empty(), "it obeyed after all");
    assert!((Duration::from_millis(700)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert!(ended.log.contains("sending SIGTERM") && ended.log.contains("sending SIGKILL"), "{}", ended.log);
}

#[test]
fn a_drain_ends_when_it_hangs_after_its_last_task() {
    let script = [
        "on finish: sleep 200ms ; metrics taskFinish ; note finished ; wait",
        "hello all",
        "metrics taskStart",
        "print ready",
        "wait",
    ];
    let runner = scene(&script).set("supervision.drainIdleTimeout", "400ms").start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGUSR1);
    let finished = runner.wait_for_note("finished");
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!(told(&messages(&ended.events)), ["finish", "now"]);
    let idle = named(&ended.events, "message")[2].after(&finished);
    assert!(idle + TOLERANCE >= Duration::from_millis(400), "{idle:?}");
    assert!(ended.log.contains("none is running"), "{}", ended.log);
}

#[test]
fn a_drain_lets_a_task_run_as_long_as_it_takes() {
    let script = [
        "on finish: sleep 1s ; metrics taskFinish ; metrics taskStart ; sleep 600ms ; metrics taskFinish ; exit 72",
        "hello all",
        "metrics taskStart",
        "print ready",
        "wait",
    ];
    let runner = scene(&script).set("supervision.drainIdleTimeout", "300ms").start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGUSR1);
    let ended = runner.ended();
    assert_eq!((ended.code, named(&ended.events, "exit").len()), (Some(0), 1), "{}", ended.log);
    assert_eq!(told(&messages(&ended.events)), ["finish"]);
}

#[test]
fn where_no_task_was_ever_seen_only_the_drain_timeout_counts() {
    let script = ["on finish: sleep 1s ; exit 72", "hello all", "print ready", "wait"];
    let runner = scene(&script).set("supervision.drainIdleTimeout", "100ms").start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGUSR1);
    let ended = runner.ended();
    assert_eq!((ended.code, named(&ended.events, "exit").len()), (Some(0), 1), "{}", ended.log);
    assert_eq!(told(&messages(&ended.events)), ["finish"]);
}
