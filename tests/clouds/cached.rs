//! The second start of a machine: from its cache, without asking anybody.

use nix::sys::signal::Signal;
use test_support::fake_taskcluster::{Fault, Times};

use crate::clouds::machine::{ACTION, AZURE, EC2, EVENTS, GCE, Machine, OBEDIENT, PREEMPTED, at_once};

#[test]
fn a_cached_start_asks_neither_the_cloud_nor_taskcluster_before_its_worker_runs() {
    at_once([(EC2, ACTION), (AZURE, EVENTS), (GCE, PREEMPTED)], |(kind, notices)| {
        let machine = Machine::new(kind);
        let runner = machine.booted(OBEDIENT);
        runner.signal(Signal::SIGTERM);
        assert_eq!(runner.ended().code, Some(0));
        machine.taskcluster.forget_requests();
        // Every call would hang.
        machine.tell("fault * hang");
        let rule = machine.taskcluster.fail("any", Times::UntilCleared, Fault::Hang);
        let asked = machine.metadata.requests().len();
        let runner = machine.booted(OBEDIENT);
        let since = machine.metadata.requests().split_off(asked);
        // Only the requests of the running watch. The first request to EC2 is for a token.
        let watch = |path: &str| {
            path == notices || path == "/latest/api/token" || path.ends_with("/maintenance-event")
        };
        assert!(since.iter().all(|request| watch(request.path())), "{since:#?}");
        assert_eq!(machine.calls(), []);
        runner.signal(Signal::SIGTERM);
        assert_eq!(runner.ended().code, Some(0));
        machine.taskcluster.clear_fault(rule);
    });
}

#[test]
fn a_registration_that_went_no_further_is_not_made_again() {
    let machine = Machine::new(EC2);
    let rule = machine.taskcluster.fail("secret", Times::UntilCleared, Fault::bad_gateway());
    let runner = machine.scene().worker(OBEDIENT).set("getSecrets", true).start();
    machine.wait_for_call("secret", 2);
    assert_eq!(machine.cache()["Extra"]["stage"], "registered");
    runner.signal(Signal::SIGKILL);
    assert_eq!(runner.ended().starts(), 0);

    machine.taskcluster.clear_fault(rule);
    machine.taskcluster.set_secret(
        "worker-pool:proj-example/linux",
        serde_json::json!({"config": {"fromTheSecret": true}, "files": []}),
    );
    let asked = machine.asked("/latest/user-data");
    let runner = machine.generic_worker().worker(OBEDIENT).set("getSecrets", true).start();
    runner.wait_for_log("worker says hello");
    let text = std::fs::read_to_string(runner.path("worker.json")).unwrap();
    let configuration: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(configuration["fromTheSecret"], true);
    assert_eq!(configuration["workerId"], EC2.worker);
    assert_eq!(machine.taskcluster.count("registerWorker"), 1);
    assert_eq!(machine.asked("/latest/user-data"), asked);
    assert_eq!(machine.cache()["Extra"]["stage"], "complete");
}

#[test]
fn a_stop_during_the_registration_ends_soon_and_leaves_the_machine() {
    let machine = Machine::new(EC2);
    machine.taskcluster.fail("registerWorker", Times::UntilCleared, Fault::Hang);
    let runner = machine.boot(OBEDIENT);
    machine.wait_for_call("registerWorker", 1);
    let stopped = runner.signal(Signal::SIGTERM);
    let took = runner.end() - stopped;
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts(), ended.host_commands), (Some(0), 0, vec![]), "{}", ended.log);
    // 5 s are for the answer: it may be the only one that this machine gets.
    assert!(took < std::time::Duration::from_secs(7), "{took:?}");
}

#[test]
fn a_registration_whose_answer_comes_after_the_stop_is_kept() {
    let machine = Machine::new(EC2);
    let late = Fault::LateAnswer(std::time::Duration::from_secs(1));
    machine.taskcluster.fail("registerWorker", Times::Only(1), late);
    let runner = machine.boot(OBEDIENT);
    machine.wait_for_call("registerWorker", 1);
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
    // The next start goes on with it: a second registration would be refused.
    let runner = machine.boot(OBEDIENT);
    runner.wait_for_event("message");
    assert_eq!(machine.taskcluster.count("registerWorker"), 1);
}
