//! Reboots: those that a worker asks the system for, those that it asks the runner for, and those that do not come.

use std::time::Duration;

use nix::sys::signal::Signal;
use test_support::fake_taskcluster::{Fault, Times};

use crate::harness::{Scene, messages, named};
use crate::redeploy::host::{Cache, Host, Kind, REGISTER, REMOVE, REPORT, REREGISTER};

const GOING_DOWN: &str = "waiting for the host to go down";

/// A worker that asks for a reboot at its first start, and then runs until it is stopped.
const TIRED: [&str; 4] = ["on now: exit 72", "hello all", "start 1: exit 67", "wait"];

fn tired(host: &Host) -> Scene {
    host.generic_worker().worker(TIRED)
}

#[test]
fn after_the_boot_the_worker_starts_from_the_cache_with_the_newest_credentials() {
    for kind in [Kind::Static, Kind::Aws] {
        let host = Host::new(kind);
        // Short-lived credentials are renewed at once. The worker receives them and then requests its reboot.
        host.set_credentials_life(Duration::from_secs(25));
        let renewing = host.taskcluster.fail(REREGISTER, Times::UntilCleared, Fault::Hang);
        let script = ["on new-credentials: exit 67", "hello all", "print ready", "wait"];
        let runner = host.generic_worker().worker(script).set("supervision.onReboot", "wait").start();
        runner.wait_for_log("ready");
        let first = host.token_of_the_worker();
        host.wait_for(REREGISTER, 1);
        host.set_credentials_life(Duration::from_secs(3600));
        host.taskcluster.clear_fault(renewing);
        runner.wait_for_log(GOING_DOWN);
        let told = named(&runner.events(), "message").last().unwrap().field("message").clone();
        let newest = told["access-token"].as_str().unwrap().to_owned();
        assert_ne!(newest, first);
        assert_eq!(host.cache(), Cache::of("d1"));
        // The system goes down.
        runner.signal(Signal::SIGTERM);
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{kind:?}: {}", ended.log);
        assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), Vec::new()));
        // The host boots again. A static host registers at each start, unless Taskcluster does not answer; this test
        // need not wait for that.
        let after_the_boot =
            host.generic_worker().worker(["on now: exit 72", "hello all", "print ready", "wait"]);
        let runner = after_the_boot.start();
        runner.wait_for_log("ready");
        let registered = if kind == Kind::Static { 2 } else { 1 };
        host.assert_called(REGISTER, registered);
        if kind == Kind::Aws {
            assert_eq!(host.token_of_the_worker(), newest);
        } else {
            assert!(host.token_of_the_worker() != first && host.token_of_the_worker() != newest);
        }
        runner.signal(Signal::SIGTERM);
        assert_eq!(runner.ended().code, Some(0));
        host.assert_called(REMOVE, 0);
    }
}

#[test]
fn credentials_that_are_due_after_the_boot_are_renewed_before_the_worker_starts() {
    let host = Host::aws();
    // The credentials are due at once, and cannot be renewed before the host goes down.
    host.set_credentials_life(Duration::from_secs(25));
    host.taskcluster.fail(REREGISTER, Times::UntilCleared, Fault::bad_gateway());
    let runner = tired(&host).start();
    runner.wait_for_log(GOING_DOWN);
    let first = host.token_of_the_worker();
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    host.taskcluster.clear_faults();
    host.taskcluster.forget_requests();
    host.set_credentials_life(Duration::from_secs(3600));
    let runner =
        host.generic_worker().worker(["on now: exit 72", "hello all", "print ready", "wait"]).start();
    runner.wait_for_start(1);
    assert_ne!(host.token_of_the_worker(), first);
    host.assert_called(REREGISTER, 1);
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    // No message, because the worker has had these credentials from its start.
    assert_eq!(messages(&ended.events), ["welcome", "now"]);
    host.assert_called(REGISTER, 0);
}

#[test]
fn a_static_worker_that_cannot_be_restarted_in_place_gets_a_boot_after_a_crash_where_the_runner_may_reboot() {
    let host = Host::fixed();
    let scene = host.generic_worker().set("worker.restartInPlace", false);
    let runner = scene.set("supervision.onReboot", "reboot").worker(["hello all", "exit 1"]).start();
    runner.wait_for_log("running the host command what=reboot");
    runner.wait_for_log(GOING_DOWN);
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), vec!["reboot".to_owned()]));
    host.assert_called(REPORT, 0);
}

#[test]
fn a_reboot_that_does_not_come_ends_in_a_start_in_place_or_with_exit_70() {
    for (kind, in_place) in
        [(Kind::Static, true), (Kind::Static, false), (Kind::Aws, true), (Kind::Aws, false)]
    {
        let host = Host::new(kind);
        let runner = tired(&host)
            .set("worker.restartInPlace", in_place)
            .set("supervision.rebootTimeout", "300ms")
            .start();
        runner.wait_for_log(GOING_DOWN);
        runner.wait_for_log("the reboot has not come within supervision.rebootTimeout");
        if in_place {
            runner.wait_for_start(2);
            runner.signal(Signal::SIGTERM);
        }
        let ended = runner.ended();
        let expected = if in_place { (Some(0), 2) } else { (Some(70), 1) };
        assert_eq!((ended.code, ended.starts()), expected, "{kind:?}: {}", ended.log);
        let starts = named(&ended.events, "start");
        if let [_, again] = *starts {
            let waited = again.after(named(&ended.events, "exit")[0]);
            assert!(waited >= Duration::from_millis(280), "{waited:?}");
        }
        assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), Vec::new()));
        host.assert_called(REMOVE, 0);
        host.assert_called(REPORT, 0);
    }
}

#[test]
fn where_the_runner_is_to_reboot_the_host_it_does_so_and_waits() {
    for kind in [Kind::Static, Kind::Aws] {
        let host = Host::new(kind);
        let runner = tired(&host).set("supervision.onReboot", "reboot").start();
        runner.wait_for_log(GOING_DOWN);
        runner.wait_for_log("running the host command what=reboot");
        runner.signal(Signal::SIGTERM);
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{kind:?}: {}", ended.log);
        assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), vec!["reboot".to_owned()]));
        host.assert_called(REMOVE, 0);
    }
}

#[test]
fn where_somebody_else_reboots_the_host_the_runner_ends_at_once() {
    for kind in [Kind::Static, Kind::Aws] {
        let host = Host::new(kind);
        let runner = tired(&host).set("supervision.onReboot", "exit").start();
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(70), 1), "{kind:?}: {}", ended.log);
        assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), Vec::new()));
        host.assert_called(REMOVE, 0);
        host.assert_called(REPORT, 0);
    }
}

#[test]
fn where_a_restart_will_do_the_worker_is_started_again_at_once() {
    for kind in [Kind::Static, Kind::Aws] {
        let host = Host::new(kind);
        let runner = tired(&host).set("supervision.onReboot", "restart").start();
        runner.wait_for_start(2);
        runner.signal(Signal::SIGTERM);
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 2), "{kind:?}: {}", ended.log);
        assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), Vec::new()));
        host.assert_called(REMOVE, 0);
        host.assert_called(REGISTER, 1);
    }
}

#[test]
fn a_restart_that_is_impossible_leaves_the_reboot_to_others() {
    let host = Host::aws();
    let runner =
        tired(&host).set("supervision.onReboot", "restart").set("worker.restartInPlace", false).start();
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(70), 1), "{}", ended.log);
    assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), Vec::new()));
    host.assert_called(REMOVE, 0);
}

#[test]
fn a_worker_that_asks_by_message_gets_its_reboot_after_its_exit_whatever_on_reboot_says() {
    for kind in [Kind::Static, Kind::Aws] {
        for (on_reboot, exit) in [("restart", 0), ("exit", 67), ("wait", 1)] {
            let host = Host::new(kind);
            let ask = r#"send {"type":"reboot","reason":"a new kernel"}"#;
            let script = [
                "hello all".to_owned(),
                ask.to_owned(),
                "print asked".to_owned(),
                host.gate("go"),
                format!("exit {exit}"),
            ];
            let runner = host.generic_worker().worker(script).set("supervision.onReboot", on_reboot).start();
            runner.wait_for_log("a new kernel");
            runner.wait_for_log("asked");
            assert!(!runner.path("host-commands").exists(), "the worker still runs: {runner}");
            host.let_go("go");
            runner.wait_for_log("running the host command what=reboot");
            runner.wait_for_log(GOING_DOWN);
            runner.signal(Signal::SIGTERM);
            let ended = runner.ended();
            assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{kind:?}, {on_reboot}: {}", ended.log);
            assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), vec!["reboot".to_owned()]));
            host.assert_called(REMOVE, 0);
        }
    }
}

#[test]
fn a_new_deployment_for_a_worker_that_needs_a_boot_reboots_the_host_where_the_runner_is_to() {
    let host = Host::fixed();
    let script = ["on finish: exit 72", "on now: exit 72", "hello all", "print ready", "wait"];
    let runner = host
        .generic_worker()
        .worker(script)
        .set("worker.restartInPlace", false)
        .set("supervision.onReboot", "reboot")
        .start();
    runner.wait_for_log("ready");
    host.deploy("d2");
    runner.signal(Signal::SIGHUP);
    runner.wait_for_log("running the host command what=reboot");
    host.assert_called(REGISTER, 2);
    assert_eq!(host.cache(), Cache::of("d2"));
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!(ended.host_commands, ["reboot"]);
    assert_eq!(messages(&ended.events), ["welcome", "finish"]);
}
