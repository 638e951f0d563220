//! Credentials are renewed in time, whatever the worker can do with new ones.
//!
//! The schedule is that of `src/credentials.rs`: credentials that live 33 s are renewed after 3 s, and those that live
//! 20 s or less as soon as there is a worker.

use std::time::Duration;

use test_support::fake_taskcluster::{Fault, Times, WorkerState};

use crate::harness::{messages, named};
use crate::registration::site::{
    AT_ONCE, STATIC_SECRET, Site, assert_discreet, between, line, lines, ready, stop,
};

#[test]
fn credentials_are_renewed_in_time_and_are_in_the_cache_before_the_worker_has_them() {
    let site = Site::with_life(33);
    let runner = site.cached_scene().start();
    ready(&runner);
    let old = site.cache();
    let told = runner.wait_for("new credentials", |events| {
        named(events, "message").into_iter().find(|event| event.text("type") == "new-credentials").cloned()
    });
    let cache = site.cache();
    let requests = site.taskcluster.requests();
    let after = between(requests[0].at, requests[1].at);
    assert!((Duration::from_millis(2600)..Duration::from_secs(15)).contains(&after), "after {after:?}");
    let body = requests[1].body.clone().unwrap();
    assert_eq!(body["secret"], old["RegistrationSecret"]);
    assert_eq!(body.as_object().unwrap().len(), 4, "{body}");
    assert!(requests[1].signed);
    assert_eq!(requests[1].path, "/api/worker-manager/v1/worker/reregister");
    let message = told.field("message");
    assert_ne!(cache["Credentials"], old["Credentials"]);
    assert_eq!(message["client-id"], cache["Credentials"]["clientId"]);
    assert_eq!(message["access-token"], cache["Credentials"]["accessToken"]);
    assert_eq!(message["certificate"], cache["Credentials"]["certificate"]);
    assert_eq!(cache["WorkerConfig"]["taskcluster"]["accessToken"], cache["Credentials"]["accessToken"]);
    assert_eq!(
        cache["RegistrationSecret"].as_str(),
        site.taskcluster.one_time_secret(&site.worker).as_deref()
    );
    let ended = stop(&runner);
    assert_eq!(ended.starts(), 1);
    let secrets = ["accessToken", "certificate"].map(|key| cache["Credentials"][key].as_str().unwrap());
    assert_discreet(&ended.log, &secrets);
    assert_discreet(&ended.log, &[STATIC_SECRET, cache["RegistrationSecret"].as_str().unwrap()]);
}

#[test]
fn a_worker_that_is_started_again_finds_the_renewed_credentials_in_its_file() {
    let site = Site::with_one_renewal();
    let script = ["start 1: hello all ; await new-credentials ; exit 9", "start 2: on now: exit 0"];
    let scene = site.cached_scene().worker([script[0], script[1], "hello all", "note ready", "wait"]);
    let runner = scene.start();
    site.let_renew(&runner);
    ready(&runner);
    let first = named(&runner.events(), "message")
        .iter()
        .find(|it| it.text("type") == "new-credentials")
        .copied()
        .cloned();
    let token = first.unwrap().field("message")["access-token"].clone();
    assert_eq!(site.worker_config()["taskcluster"]["accessToken"], token);
    stop(&runner);
}

#[test]
fn a_worker_without_the_capability_finishes_and_is_started_again_with_new_credentials() {
    let site = Site::with_one_renewal();
    let script =
        ["on finish: exit 0", "on now: exit 0", "await welcome", "hello graceful-termination", "wait"];
    let runner = site.cached_scene().worker(script).start();
    site.let_renew(&runner);
    runner.wait_for_log("worker is started again with its new credentials");
    runner.wait_for_start(2);
    let file = site.worker_config()["taskcluster"]["accessToken"].clone();
    let ended = stop(&runner);
    assert_eq!(messages(&ended.events)[..2], ["welcome", "finish"]);
    assert_eq!(file, site.cache()["Credentials"]["accessToken"], "{}", ended.log);
    assert_eq!(site.taskcluster.count("registerWorker"), 1);
}

#[test]
fn a_worker_that_says_hello_late_gets_the_newest_credentials_then() {
    let site = Site::with_one_renewal();
    let gate = site.text_path("gate");
    let wait = format!("wait-file {gate}");
    let scene = site.cached_scene().worker([
        "on now: exit 0",
        &wait,
        "hello all",
        "await new-credentials",
        "note ready",
        "wait",
    ]);
    let runner = scene.start();
    site.let_renew(&runner);
    site.taskcluster.wait_for_answers("reregisterWorker", 1, crate::harness::DEADLINE);
    runner.wait_for_log("credentials renewed");
    std::fs::write(&gate, "").unwrap();
    ready(&runner);
    stop(&runner);
}

#[test]
fn credentials_that_live_for_seconds_do_not_make_the_runner_hammer() {
    let site = Site::with_life(12);
    let runner = site.scene().start();
    ready(&runner);
    site.wait_for("reregisterWorker", 3);
    stop(&runner);
    let requests = site.taskcluster.requests();
    let renewals: Vec<_> = requests.iter().filter(|request| request.call == "reregisterWorker").collect();
    for pair in renewals.windows(2) {
        let apart = between(pair[0].at, pair[1].at);
        // A quarter of their life, less a tenth.
        assert!(apart > Duration::from_millis(2600), "{apart:?} apart");
        assert!(apart < Duration::from_secs(9), "{apart:?} apart");
    }
}

#[test]
fn a_renewal_that_fails_for_a_while_does_not_disturb_the_worker() {
    let site = Site::with_life(20);
    site.taskcluster.fail("reregisterWorker", Times::Only(2), Fault::InternalError);
    let runner = site
        .scene()
        .worker(["on now: exit 0", "hello all", "await new-credentials", "note ready", "wait"])
        .start();
    ready(&runner);
    let ended = stop(&runner);
    let said = line(&ended.log, "a call to Taskcluster fails: trying again");
    assert!(said.contains("reregisterWorker failed: POST") && said.contains("500"), "{said}");
    assert_eq!(lines(&ended.log, "a call to Taskcluster works again"), 1, "{}", ended.log);
    assert_eq!(ended.starts(), 1);
    assert_eq!(site.taskcluster.count("reregisterWorker"), 3);
}

#[test]
fn a_lost_renewal_is_a_new_registration_and_the_worker_goes_on() {
    for fault in [Fault::AnswerLost, Fault::truncated(), Fault::unfinished()] {
        let site = Site::with_life(20);
        site.taskcluster.fail("reregisterWorker", Times::Only(1), fault.clone());
        let script = ["on now: exit 0", "hello all", "await new-credentials", "note ready", "wait"];
        let runner = site.cached_scene().worker(script).start();
        ready(&runner);
        let cache = site.cache();
        let ended = stop(&runner);
        let said = line(&ended.log, "credentials cannot be renewed: registering anew");
        assert!(said.contains("Could not generate credentials for this secret"), "{said}");
        assert!(ended.log.contains("worker registered anew"), "{}", ended.log);
        assert_eq!(ended.starts(), 1);
        let calls = site.calls();
        assert_eq!(
            calls[..4],
            ["registerWorker", "reregisterWorker", "reregisterWorker", "registerWorker"],
            "{fault:?}"
        );
        assert_eq!(
            cache["RegistrationSecret"].as_str(),
            site.taskcluster.one_time_secret(&site.worker).as_deref()
        );
    }
}

#[test]
fn a_worker_whose_credentials_run_out_is_stopped_and_started_again_with_a_new_registration() {
    let site = Site::with_life(8);
    let refuse = site.taskcluster.fail("reregisterWorker", Times::UntilCleared, Fault::bad_gateway());
    let runner = site.scene().start();
    runner.wait_for_graceful_termination(false);
    site.taskcluster.set_credentials_life(Duration::from_secs(3600));
    site.taskcluster.clear_fault(refuse);
    runner.wait_for_start(2);
    let requests = site.taskcluster.requests();
    let registered: Vec<_> = requests.iter().filter(|request| request.call == "registerWorker").collect();
    let after = between(registered[0].at, registered[1].at);
    // Their last use is 6 s after they were obtained.
    assert!((Duration::from_secs(5)..Duration::from_secs(6) + AT_ONCE).contains(&after), "after {after:?}");
    let ended = stop(&runner);
    assert!(
        ended.log.contains("the worker's credentials run out and could not be renewed: it is stopped"),
        "{}",
        ended.log
    );
    assert!(ended.log.contains("registering anew"), "{}", ended.log);
    let count = site.taskcluster.count("reregisterWorker");
    assert!((2..=15).contains(&count), "{count} requests");
}

#[test]
fn a_stop_ends_a_renewal_that_hangs() {
    let site = Site::with_life(20);
    site.taskcluster.fail("reregisterWorker", Times::Only(1), Fault::Hang);
    let runner = site.scene().start();
    ready(&runner);
    site.wait_for("reregisterWorker", 1);
    stop(&runner);
}

#[test]
fn a_worker_that_is_refused_at_renewal_works_until_its_credentials_run_out_and_nobody_is_hammered() {
    let site = Site::with_life(8);
    site.taskcluster.fail("reregisterWorker", Times::Only(1), Fault::Hang);
    let runner = site.scene().start();
    ready(&runner);
    site.wait_for("reregisterWorker", 1);
    site.taskcluster.set_worker_state(&site.worker, WorkerState::Stopped);
    site.taskcluster.clear_faults();
    runner.wait_for_log("credentials cannot be renewed: the worker goes on while they are of use");
    runner.wait_for_graceful_termination(false);
    runner.wait_for_log("the worker cannot start yet");
    let ended = stop(&runner);
    assert_eq!(ended.starts(), 1);
    assert!(
        line(&ended.log, "the worker cannot start yet").contains("worker is not running"),
        "{}",
        ended.log
    );
    // At the renewal, and when the worker was to start again.
    assert_eq!(site.calls(), ["registerWorker", "reregisterWorker", "registerWorker", "registerWorker"]);
}
