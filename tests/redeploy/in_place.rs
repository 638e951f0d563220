//! A new deployment on a static host: one process, from the old run to the new one; and events that must have no
//! effect.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use test_support::fake_taskcluster::{Fault, Times};

use crate::harness::{Runner, Scene, eventually, messages};
use crate::redeploy::host::{Cache, Host, REGISTER, REMOVE, TERMINATE, WORKER_POOL, lacks_scope, refusal};

/// A worker with a task that ends when the host lets it go; then it runs again without one.
fn worker_with_a_task(host: &Host) -> Vec<String> {
    vec![
        format!("start 1: on finish: note finishing ; {} ; exit 72", host.gate("task")),
        "start 2+: on finish: exit 72".to_owned(),
        "on now: exit 72".to_owned(),
        "hello all".to_owned(),
        "print ready".to_owned(),
        "wait".to_owned(),
    ]
}

fn polling(scene: Scene) -> Scene {
    scene.set("deployment.poll", true).set("deployment.interval", "50ms")
}

fn starts(runner: &Runner) -> usize {
    runner.events().iter().filter(|event| event.name() == "start").count()
}

#[test]
fn a_new_deployment_lets_the_worker_finish_and_starts_it_again_with_a_new_registration() {
    let host = Host::fixed();
    let runner = polling(host.generic_worker()).worker(worker_with_a_task(&host)).start();
    runner.wait_for_log("ready");
    assert_eq!((host.deployed(), host.file(), host.cache()), ("d1".into(), "d1".into(), Cache::of("d1")));
    host.deploy("d2");
    runner.wait_for_note("finishing");
    // Every look finds it, and the worker is told once.
    host.wait_for(WORKER_POOL, host.taskcluster.count(WORKER_POOL) + 1);
    host.assert_called(REGISTER, 1);
    assert_eq!((host.deployed(), host.file(), host.cache()), ("d1".into(), "d1".into(), Cache::of("d1")));
    let hanging = host.taskcluster.fail(REGISTER, Times::Only(1), Fault::Hang);
    host.let_go("task");
    host.wait_for(REGISTER, 2);
    // The old run is there until there is a new one.
    assert_eq!((host.deployed(), host.file(), host.cache()), ("d1".into(), "d1".into(), Cache::of("d1")));
    host.taskcluster.clear_fault(hanging);
    runner.wait_for_start(2);
    assert_eq!((host.deployed(), host.file(), host.cache()), ("d2".into(), "d2".into(), Cache::of("d2")));
    // The registration is now current.
    host.wait_for_answers(WORKER_POOL, host.taskcluster.count(WORKER_POOL) + 1);
    runner.assert_small();
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 2), "{}", ended.log);
    assert_eq!(messages(&ended.events), ["welcome", "finish", "welcome", "now"]);
    assert!(ended.log.contains("old=d1 new=d2"), "{}", ended.log);
    assert_eq!(ended.host_commands, [""; 0]);
    host.assert_called(REGISTER, 2);
    host.assert_called(REMOVE, 0);
    runner.assert_nothing_left();
}

/// The next look, or the one after a look that is under way.
fn wait_for_a_look_that_hangs(host: &Host) {
    let hangs = || {
        let requests = host.taskcluster.requests();
        let last = requests.iter().rfind(|request| request.call == WORKER_POOL);
        // If looks continued, the next one would come within 60 ms and be answered within a few.
        last.filter(|look| look.status.is_none() && look.at.elapsed() > Duration::from_millis(300))
            .map(|_| ())
    };
    eventually(hangs).expect("a look that hangs");
}

#[test]
fn while_the_deployment_id_stays_nothing_happens() {
    let host = Host::fixed();
    let runner = polling(host.generic_worker()).worker(worker_with_a_task(&host)).start();
    runner.wait_for_log("ready");
    host.set_pool_config(&json!({"workerConfig": {"genericWorker": {"config": {
        "deploymentId": "d1", "deployed": "something else",
    }}}}));
    host.wait_for_answers(WORKER_POOL, host.taskcluster.count(WORKER_POOL) + 2);
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!(messages(&ended.events), ["welcome", "now"]);
    host.assert_called(REGISTER, 1);
}

#[test]
fn a_pool_that_cannot_be_read_or_says_nothing_lets_the_worker_run_on() {
    let host = Host::fixed();
    let runner = polling(host.generic_worker()).worker(worker_with_a_task(&host)).start();
    runner.wait_for_log("ready");
    // Some of these are retried with increasing pauses.
    let limit = Duration::from_secs(90);
    let another_look =
        || host.taskcluster.wait_for(WORKER_POOL, host.taskcluster.count(WORKER_POOL) + 2, limit);
    let mut last_rule = None;
    for fault in [
        Fault::InternalError,
        Fault::garbage(),
        Fault::bad_gateway(),
        Fault::truncated(),
        Fault::unfinished(),
        Fault::Reset,
        Fault::answer(200, "application/json", "{}"),
        Fault::answer(200, "application/json", r#"{"config": null}"#),
        Fault::answer(404, "application/json", r#"{"code": "ResourceNotFound", "message": "gone"}"#),
    ] {
        let rule = host.taskcluster.fail(WORKER_POOL, Times::UntilCleared, fault);
        // There is a new deployment, and no look can find it.
        host.deploy("d2");
        if let Some(last) = last_rule.replace(rule) {
            host.taskcluster.clear_fault(last);
        }
        another_look();
    }
    host.deploy("d1");
    if let Some(last) = last_rule {
        host.taskcluster.clear_fault(last);
    }
    for config in [json!({}), json!({"launchConfigs": []}), json!({"workerConfig": {}})] {
        host.set_pool_config(&config);
        another_look();
    }
    let hanging = host.taskcluster.fail(WORKER_POOL, Times::Only(1), Fault::Hang);
    wait_for_a_look_that_hangs(&host);
    assert!(starts(&runner) == 1 && messages(&runner.events()) == ["welcome"], "{runner}");
    // After all that it still sees a real one.
    host.taskcluster.clear_fault(hanging);
    host.deploy("d3");
    runner.wait_for_note("finishing");
}

#[test]
fn sources_that_may_not_be_asked_are_asked_once_and_the_worker_runs_on() {
    let host = Host::aws();
    for call in [TERMINATE, WORKER_POOL] {
        host.taskcluster.fail(call, Times::UntilCleared, lacks_scope(&format!("worker-manager:{call}:x")));
    }
    let script = ["on finish: exit 0", "on now: exit 0", "hello all", "print ready", "wait"];
    let runner = polling(host.command()).worker(script).start();
    for call in [TERMINATE, WORKER_POOL] {
        host.wait_for_answers(call, 1);
        runner.wait_for_log(&format!("missing_scope=worker-manager:{call}:x"));
    }
    host.deploy("d2");
    host.taskcluster.set_should_terminate(&host.worker, true, "new launch config");
    host.taskcluster.clear_faults();
    runner.signal(Signal::SIGHUP);
    runner.wait_for_log("there is nothing that would tell this worker of a new deployment");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!(messages(&ended.events), ["welcome", "now"]);
    host.assert_called(TERMINATE, 1);
    host.assert_called(WORKER_POOL, 1);
}

#[test]
fn where_registering_fails_the_old_run_goes_on_and_the_next_look_tries_again() {
    let host = Host::fixed();
    let script = ["on finish: exit 72", "start 3+: on now: exit 72", "hello all", "print ready", "wait"];
    let runner = host.generic_worker().worker(script).start();
    runner.wait_for_log("ready");
    host.deploy("d2");
    let refused = host.taskcluster.fail(REGISTER, Times::UntilCleared, refusal());
    runner.signal(Signal::SIGHUP);
    runner.wait_for_start(2);
    runner.wait_for_log("the worker goes on with the old one until the next poll");
    host.assert_called(REGISTER, 2);
    assert_eq!((host.deployed(), host.file(), host.cache()), ("d1".into(), "d1".into(), Cache::of("d1")));
    host.taskcluster.clear_fault(refused);
    runner.signal(Signal::SIGHUP);
    runner.wait_for_start(3);
    host.assert_called(REGISTER, 3);
    assert_eq!((host.deployed(), host.file(), host.cache()), ("d2".into(), "d2".into(), Cache::of("d2")));
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 3), "{}", ended.log);
    host.assert_called(REMOVE, 0);
}

#[test]
fn a_worker_that_needs_a_boot_between_has_its_new_run_cached_for_after_the_boot() {
    let host = Host::fixed();
    let script = ["on finish: exit 72", "on now: exit 72", "hello all", "print ready", "wait"];
    let scene = || host.generic_worker().set("worker.restartInPlace", false).worker(script);
    let runner = scene().start();
    runner.wait_for_log("ready");
    host.deploy("d2");
    runner.signal(Signal::SIGHUP);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(70), 1), "{}", ended.log);
    host.assert_called(REGISTER, 2);
    assert_eq!((host.cache(), host.file()), (Cache::of("d2"), "d2".to_owned()));
    // After the boot.
    let runner = scene().start();
    runner.wait_for_start(1);
    assert_eq!(host.deployed(), "d2");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn a_worker_that_needs_a_boot_between_keeps_its_old_run_where_registering_fails() {
    let host = Host::fixed();
    let script = ["on finish: exit 72", "on now: exit 72", "hello all", "print ready", "wait"];
    let runner = host.generic_worker().set("worker.restartInPlace", false).worker(script).start();
    runner.wait_for_log("ready");
    host.deploy("d2");
    host.taskcluster.fail(REGISTER, Times::UntilCleared, refusal());
    runner.signal(Signal::SIGHUP);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts(), host.cache()), (Some(70), 1, Cache::of("d1")), "{}", ended.log);
    assert!(ended.log.contains("that is tried again after the boot"), "{}", ended.log);
    host.assert_called(REGISTER, 2);
}

#[test]
fn a_machine_that_worker_manager_wants_to_end_twice_running_is_removed() {
    let host = Host::aws();
    let script = ["on finish: note finishing ; exit 0", "hello all", "print ready", "wait"];
    let runner = host.command().worker(script).start();
    runner.wait_for_log("ready");
    let look = |terminate: bool, times: usize| {
        host.taskcluster.set_should_terminate(&host.worker, terminate, "launch config is gone");
        runner.signal(Signal::SIGHUP);
        host.wait_for_answers(TERMINATE, times);
    };
    // Each look ends with the pool: only then the next one.
    look(true, 1);
    host.wait_for_answers(WORKER_POOL, 1);
    look(false, 2);
    host.wait_for_answers(WORKER_POOL, 2);
    look(true, 3);
    host.wait_for_answers(WORKER_POOL, 3);
    assert_eq!(messages(&runner.events()), ["welcome"], "{runner}");
    look(true, 4);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert!(ended.log.contains("worker-manager wants this worker to end"), "{}", ended.log);
    host.assert_called(REMOVE, 1);
    assert_eq!((host.cache(), ended.host_commands), (Cache::Removed, Vec::new()));
}

#[test]
fn a_machine_that_starts_from_its_cache_still_finds_that_its_launch_config_is_gone() {
    let host = Host::aws();
    let script = ["on finish: exit 72", "on now: exit 72", "hello all", "print ready", "wait"];
    let runner = host.generic_worker().worker(script).start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    // The pool is removed while no runner is running.
    host.deploy("d2");
    let runner = host.generic_worker().worker(script).start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGHUP);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert!(ended.log.contains("what=launchConfigId old=lc-d1 new=lc-d2"), "{}", ended.log);
    host.assert_called(REGISTER, 1);
    host.assert_called(REMOVE, 1);
    assert_eq!((host.cache(), ended.host_commands), (Cache::Removed, Vec::new()));
}

#[test]
fn a_flood_of_reloads_looks_once_in_five_seconds() {
    let host = Host::fixed();
    let runner =
        host.generic_worker().worker(["on now: exit 72", "hello all", "print ready", "wait"]).start();
    runner.wait_for_log("ready");
    let began = Instant::now();
    for looks in 1..=2 {
        while host.taskcluster.count(WORKER_POOL) < looks {
            runner.signal(Signal::SIGHUP);
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
}
