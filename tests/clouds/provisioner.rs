//! The legacy aws-provisioner: a secret that is fetched once, and always removed.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use test_support::fake_taskcluster::{Fault, Times};

use crate::clouds::machine::{ACTION, LEGACY, Machine, OBEDIENT, TOKEN, at_once};
use crate::harness::{Scene, messages, test_worker, write_program};

/// Boots, and hands back the worker's configuration.
fn configuration(machine: &Machine, scene: Scene) -> Value {
    let scene = scene.worker(OBEDIENT).set("workerConfig", json!({"list": ["file"], "fromTheFile": true}));
    let runner = scene.start();
    runner.wait_for_log("worker says hello");
    let text = std::fs::read_to_string(runner.path("worker.json")).unwrap();
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(!ended.log.contains(TOKEN), "{}", ended.log);
    assert!(!machine.taskcluster.has_legacy_secret(TOKEN));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_secret_is_fetched_once_and_removed_and_a_cached_start_asks_for_nothing() {
    let machine = Machine::new(LEGACY);
    let runner = machine.booted(OBEDIENT);
    assert_eq!(machine.calls(), [("getSecret", Some(200)), ("removeSecret", Some(200))]);
    assert!(!machine.taskcluster.has_legacy_secret(TOKEN));
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    let expires: jiff::Timestamp = machine.cache()["CredentialsExpire"].as_str().unwrap().parse().unwrap();
    let left = expires.duration_since(jiff::Timestamp::now());
    assert!((Duration::from_secs(95 * 3600)..=Duration::from_secs(96 * 3600)).contains(&left.unsigned_abs()));

    machine.tell("fault * 500");
    let runner = machine.booted(OBEDIENT);
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    assert_eq!(machine.calls().len(), 2);
}

#[test]
fn a_secret_that_cannot_be_had_is_the_error_and_is_removed_all_the_same() {
    let machine = Machine::new(LEGACY);
    machine.taskcluster.fail("getSecret", Times::UntilCleared, Fault::answer(403, "text/html", "forbidden"));
    machine.taskcluster.fail(
        "removeSecret",
        Times::UntilCleared,
        Fault::answer(403, "text/html", "forbidden, too"),
    );
    let ended = machine.boot(OBEDIENT).ended();
    assert_eq!(machine.calls(), [("getSecret", Some(403)), ("removeSecret", Some(403))]);
    assert!(ended.log.contains("cannot read the secret of the aws-provisioner"), "{}", ended.log);
    assert!(ended.log.contains("/secret/<token>") && !ended.log.contains(TOKEN), "{}", ended.log);
    // worker-manager does not know this worker.
    assert_eq!((ended.code, ended.starts(), ended.host_commands), (Some(1), 0, vec!["shutdown".to_owned()]));
}

#[test]
fn a_secret_that_nobody_hands_over_in_time_is_removed_all_the_same() {
    let machine = Machine::new(LEGACY);
    machine.taskcluster.fail("getSecret", Times::UntilCleared, Fault::bad_gateway());
    let ended = machine.scene().worker(OBEDIENT).set("startTimeout", "2s").start().ended();
    assert_eq!(machine.only("removeSecret").status, Some(200), "{}", ended.log);
    assert!(!machine.taskcluster.has_legacy_secret(TOKEN));
    assert_eq!((ended.code, ended.starts(), ended.host_commands), (Some(75), 0, vec!["shutdown".to_owned()]));
}

#[test]
fn a_secret_that_stays_is_an_error() {
    let machine = Machine::new(LEGACY);
    machine.taskcluster.fail(
        "removeSecret",
        Times::UntilCleared,
        Fault::answer(403, "text/html", "forbidden"),
    );
    let ended = machine.boot(OBEDIENT).ended();
    assert_eq!(machine.calls(), [("getSecret", Some(200)), ("removeSecret", Some(403))]);
    assert!(ended.log.contains("cannot remove the secret of this instance"), "{}", ended.log);
    assert_eq!((ended.code, ended.starts()), (Some(1), 0));
}

#[test]
fn generic_workers_part_comes_over_the_data_and_capacity_where_it_is_not_one() {
    let data = json!({
        "fromTheData": true, "both": "data", "list": ["data"],
        "genericWorker": {"config": {"inner": true, "both": "inner", "list": ["inner"]}},
    });
    let machine = Machine::new(LEGACY);
    machine.set_user_data(&json!({"data": data, "capacity": 3}));
    let found = configuration(&machine, machine.generic_worker());
    let part = |key: &str| found[key].clone();
    assert_eq!(part("list"), json!(["file", "data", "inner"]));
    assert_eq!(
        (part("both"), part("inner"), part("fromTheData")),
        (json!("inner"), json!(true), json!(true))
    );
    assert_eq!((part("fromTheFile"), part("capacity")), (json!(true), json!(3)));
    assert_eq!(part("genericWorker"), Value::Null);
    let said = [
        "workerId",
        "workerGroup",
        "provisionerId",
        "workerType",
        "region",
        "availabilityZone",
        "instanceID",
    ]
    .map(part);
    let expected =
        ["i-1234567890abcdef0", "us-west-2", "pp", "ww", "us-west-2", "us-west-2b", "i-1234567890abcdef0"];
    assert_eq!(said, expected.map(|text| json!(text)));

    let machine = Machine::new(LEGACY);
    assert_eq!(configuration(&machine, machine.generic_worker())["capacity"], Value::Null);
}

#[test]
fn docker_worker_is_told_to_shut_down_when_it_is_idle() {
    let machine = Machine::new(LEGACY);
    let data = json!({"fromTheData": true, "shutdown": {"afterIdleSeconds": 1, "other": true}});
    machine.set_user_data(&json!({"data": data, "capacity": 2}));
    let scene = machine.scene();
    let release = scene.path("docker-worker");
    let config_path = scene.path("worker.json");
    std::fs::create_dir_all(release.join("bin")).unwrap();
    let script: PathBuf = release.join("bin/docker-worker");
    let text = format!("#!/bin/sh\nexec {} 'on now: exit 0' 'hello all' wait\n", test_worker().display());
    write_program(&script, text);
    let scene = scene.set(
        "worker",
        json!({"implementation": "docker-worker", "path": release, "configPath": config_path}),
    );
    let runner = scene.set("workerConfig", json!({"fromTheFile": true})).start();
    runner.wait_for_log("worker says hello");
    let text = std::fs::read_to_string(config_path).unwrap();
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));

    let mut found: Value = serde_json::from_str(&text).unwrap();
    let taskcluster = found.as_object_mut().unwrap().remove("taskcluster").unwrap();
    for key in ["clientId", "accessToken", "certificate"] {
        assert!(taskcluster[key].as_str().is_some_and(|text| !text.is_empty()), "{key}");
    }
    let location = found.as_object_mut().unwrap().remove("workerLocation").unwrap();
    let location: Value = serde_json::from_str(location.as_str().unwrap()).unwrap();
    assert_eq!(location, json!({"cloud": "aws", "region": "us-west-2", "availabilityZone": "us-west-2b"}));
    let expected = json!({
        "fromTheData": true, "fromTheFile": true, "capacity": 2,
        "shutdown": {"enabled": true, "afterIdleSeconds": 900, "other": true},
        "host": "ec2-203-0-113-17.us-west-2.compute.amazonaws.com", "publicIp": "203.0.113.17",
        "privateIp": "10.158.112.84", "workerNodeType": "m5.large", "instanceType": "m5.large",
        "instanceId": "i-1234567890abcdef0", "region": "us-west-2", "rootUrl": machine.taskcluster.url(),
        "workerId": "i-1234567890abcdef0", "workerGroup": "us-west-2", "provisionerId": "pp", "workerType": "ww",
    });
    assert_eq!(found, expected);
}

#[test]
fn a_part_of_the_data_that_cannot_be_merged_costs_no_secret() {
    let machine = Machine::new(LEGACY);
    machine.set_user_data(&json!({"data": {"genericWorker": {"config": "text"}}}));
    let ended = machine.generic_worker().worker(OBEDIENT).start().ended();
    assert!(ended.log.contains("`data.genericWorker.config` must be an object"), "{}", ended.log);
    assert_eq!((ended.code, machine.calls()), (Some(1), vec![]));
    assert!(machine.taskcluster.has_legacy_secret(TOKEN));
}

#[test]
fn a_worker_that_is_done_has_its_host_shut_down_and_is_not_started_again() {
    let machine = Machine::new(LEGACY);
    let ended = machine.boot(["hello all", "exit 0"]).ended();
    assert_eq!((ended.code, ended.host_commands), (Some(0), vec!["shutdown".to_owned()]), "{}", ended.log);
    assert_eq!(machine.taskcluster.count("removeWorker"), 0);
    let ended = machine.boot(OBEDIENT).ended();
    // The host is still here: it is shut down again.
    let shutdown = vec!["shutdown".to_owned()];
    assert_eq!((ended.code, ended.starts(), ended.host_commands), (Some(0), 0, shutdown), "{}", ended.log);
}

#[test]
fn a_spot_notice_counts_whichever_version_the_metadata_service_has() {
    at_once(["required", "optional", "unsupported"], |sessions| {
        let machine = Machine::new(LEGACY);
        machine.tell(&format!("sessions {sessions}"));
        let runner = machine.booted(OBEDIENT);
        machine.wait_until_asked(ACTION, 2);
        machine.spot("terminate", Duration::from_secs(120));
        let ended = runner.ended();
        assert_eq!(messages(&ended.events), ["welcome", "now"], "{}", ended.log);
        assert_eq!((ended.code, ended.host_commands), (Some(0), vec!["shutdown".to_owned()]));
    });
}
