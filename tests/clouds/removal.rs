//! Removal of a machine from worker-manager: once, with the mark on disk before, and never when the machine is to come
//! back.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use test_support::fake_taskcluster::{Fault, Times, WorkerState};

use crate::clouds::machine::{AZURE, EC2, GCE, Machine, OBEDIENT, at_once, read_cache};
use crate::harness::messages;

#[test]
fn a_worker_that_is_done_is_removed_once_and_the_mark_is_on_the_disk_before() {
    at_once([EC2, AZURE, GCE], |kind| {
        let machine = Machine::new(kind);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (path, marks) = (machine.cache_path(), Arc::clone(&seen));
        machine.taskcluster.observe(move |request| {
            if request.call == "removeWorker" {
                marks.lock().unwrap().push(read_cache(&path)["Extra"]["leaving"].clone());
            }
        });
        // So that its answer comes well after the request.
        machine.taskcluster.fail("removeWorker", Times::Only(1), Fault::HangFor(Duration::from_millis(300)));
        let runner = machine.boot(["hello all", "exit 0"]);
        machine.wait_for_call("removeWorker", 1);
        let at_the_request = machine.cache()["Extra"]["leaving"].clone();
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts(), ended.host_commands), (Some(0), 1, vec![]), "{}", ended.log);
        let request = machine.only("removeWorker");
        assert_eq!((request.method.as_str(), request.status, request.signed), ("DELETE", Some(200), true));
        assert_eq!(at_the_request["reason"], "the worker is done");
        assert!(at_the_request["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
        assert_eq!(*seen.lock().unwrap(), [at_the_request]);

        // The mark holds.
        let asked = machine.metadata.requests().len();
        machine.taskcluster.forget_requests();
        let ended = machine.boot(OBEDIENT).ended();
        assert_eq!((ended.code, ended.starts(), ended.host_commands), (Some(0), 0, vec![]), "{}", ended.log);
        assert!(ended.log.contains("this worker was removed from worker-manager"), "{}", ended.log);
        assert_eq!((machine.calls(), machine.metadata.requests().len()), (vec![], asked));
    });
}

#[test]
fn a_worker_that_cannot_be_removed_has_its_host_shut_down() {
    let machine = Machine::new(EC2);
    machine.taskcluster.fail("removeWorker", Times::UntilCleared, Fault::answer(403, "text/html", "no"));
    let ended = machine.boot(["hello all", "exit 0"]).ended();
    assert_eq!((ended.code, ended.host_commands), (Some(0), vec!["shutdown".to_owned()]), "{}", ended.log);
    assert_eq!(machine.taskcluster.count("removeWorker"), 1);
    assert!(ended.log.contains("the worker cannot be removed: its host is shut down"), "{}", ended.log);
    assert_eq!(machine.boot(OBEDIENT).ended().starts(), 0);
}

#[test]
fn a_worker_that_somebody_has_removed_is_not_shut_down_as_well() {
    let machine = Machine::new(EC2);
    let gone = r#"{"code": "ResourceNotFound", "message": "Worker not found", "requestInfo": {}}"#;
    machine.taskcluster.fail(
        "removeWorker",
        Times::UntilCleared,
        Fault::answer(404, "application/json", gone),
    );
    let ended = machine.boot(["hello all", "exit 0"]).ended();
    assert_eq!((ended.code, ended.host_commands), (Some(0), vec![]), "{}", ended.log);
}

#[test]
fn a_removal_is_tried_again_while_taskcluster_is_away() {
    let machine = Machine::new(GCE);
    machine.taskcluster.fail("removeWorker", Times::Only(2), Fault::bad_gateway());
    let ended = machine.boot(["hello all", "exit 0"]).ended();
    assert_eq!((ended.code, ended.host_commands), (Some(0), vec![]), "{}", ended.log);
    assert_eq!(machine.taskcluster.count("removeWorker"), 3);
    assert_eq!(machine.taskcluster.worker_state(&machine.key), Some(WorkerState::Stopped));
}

#[test]
fn a_shutdown_message_and_the_exit_that_follows_remove_once() {
    // Whatever the exit is, and before the worker has exited.
    at_once(["exit 0", "exit 1", "exit 67"], |exit| {
        let machine = Machine::new(EC2);
        let scene = machine.generic_worker();
        let go = scene.path("go");
        let wait = format!("wait-file {}", go.display());
        let script =
            ["hello all", r#"send {"type": "shutdown"}"#, r#"send {"type": "shutdown"}"#, &wait, exit];
        let runner = scene.worker(script).start();
        machine.taskcluster.wait_for_answers("removeWorker", 1, crate::harness::DEADLINE);
        fs::write(go, "").unwrap();
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts(), ended.host_commands), (Some(0), 1, vec![]), "{}", ended.log);
        assert_eq!(machine.taskcluster.count("removeWorker"), 1);
        assert_eq!(machine.boot(OBEDIENT).ended().starts(), 0);
    });
}

#[test]
fn a_shutdown_message_where_nothing_can_be_removed_shuts_down_once() {
    let machine = Machine::new(EC2);
    machine.taskcluster.fail("removeWorker", Times::UntilCleared, Fault::answer(403, "text/html", "no"));
    let ended = machine.boot(["hello all", r#"send {"type": "shutdown"}"#, "exit 0"]).ended();
    assert_eq!((ended.code, ended.host_commands), (Some(0), vec!["shutdown".to_owned()]), "{}", ended.log);
    assert_eq!(machine.taskcluster.count("removeWorker"), 1);
}

#[test]
fn a_worker_that_crashes_too_often_is_reported_and_removed_after_the_delay() {
    let machine = Machine::new(EC2);
    let scene = machine.scene().worker(["hello all", "print my last words", "exit 1"]);
    let scene = scene.set("supervision.maxRestarts", 2).set("host.startFailureDelay", "1s");
    let ended = scene.set("supervision.reportOutputLines", 5).start().ended();
    assert_eq!((ended.code, ended.starts(), ended.host_commands), (Some(1), 3, vec![]), "{}", ended.log);
    let (report, removal) = (machine.only("reportWorkerError"), machine.only("removeWorker"));
    assert!(removal.at - report.at >= Duration::from_millis(950), "{:?}", removal.at - report.at);
    let report = report.body.unwrap();
    assert_eq!(report["kind"], "worker-runner");
    assert!(report.to_string().contains("my last words"), "{report}");
    assert!(ended.log.contains("gave up"), "{}", ended.log);
}

#[test]
fn a_stop_during_the_delay_keeps_the_machine() {
    let machine = Machine::new(EC2);
    let scene = machine.generic_worker().worker(["hello all", "exit 64"]).set("host.startFailureDelay", "1h");
    let runner = scene.start();
    runner.wait_for_log("this machine is removed after host.startFailureDelay");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts(), ended.host_commands), (Some(1), 1, vec![]), "{}", ended.log);
    assert_eq!(machine.taskcluster.count("reportWorkerError"), 1);
    assert_eq!(machine.taskcluster.count("removeWorker"), 0);
    assert_eq!(machine.cache()["Extra"].get("leaving"), None);
}

#[test]
fn a_machine_that_may_not_be_shut_down_for_a_failure_stays_and_the_runner_ends_at_once() {
    let machine = Machine::new(EC2);
    let scene = machine.generic_worker().worker(["hello all", "exit 64"]);
    let ended =
        scene.set("host.shutdownOnStartFailure", false).set("host.startFailureDelay", "1h").start().ended();
    assert_eq!((ended.code, ended.host_commands), (Some(1), vec![]), "{}", ended.log);
    assert_eq!(machine.taskcluster.count("removeWorker"), 0);
}

#[test]
fn a_worker_that_wants_a_reboot_is_not_removed_and_goes_on_from_the_cache() {
    let machine = Machine::new(EC2);
    let scene = machine.generic_worker().worker(["hello all", "exit 67"]).set("supervision.onReboot", "wait");
    let runner = scene.start();
    runner.wait_for_log("reboot");
    runner.wait_for_event("exit");
    runner.wait_for_log("wait");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0), "{}", runner.log());
    assert_eq!(machine.cache()["Extra"].get("leaving"), None);

    machine.booted(OBEDIENT);
    assert_eq!(machine.taskcluster.count("removeWorker"), 0);
    assert_eq!(machine.taskcluster.count("registerWorker"), 1);
}

#[test]
fn an_operators_stop_removes_nothing() {
    let machine = Machine::new(GCE);
    let runner = machine.booted(OBEDIENT);
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(
        (ended.code, messages(&ended.events)),
        (Some(0), vec!["welcome".to_owned(), "now".to_owned()])
    );
    assert_eq!((machine.taskcluster.count("removeWorker"), ended.host_commands), (0, vec![]));
    assert_eq!(machine.cache()["Extra"]["stage"], json!("complete"));
}
