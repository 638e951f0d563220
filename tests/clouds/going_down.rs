//! A host that goes down because its cloud takes it away: the signal to the service is not an operator's stop. And what
//! clouds say of the maintenance of their hosts.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::clouds::machine::{AZURE, EC2, GCE, Kind, Machine, OBEDIENT, PREEMPTED, at_once};
use crate::harness::{Scene, messages, write_program};

const MAINTENANCE: &str = "/computeMetadata/v1/instance/maintenance-event";

fn take_away(machine: &Machine, kind: Kind) {
    match kind.provider {
        "aws" => machine.spot("terminate", Duration::from_secs(120)),
        "azure" => machine.events(&[("e-1", "Preempt", &[kind.worker], 30)]),
        _ => machine.tell(&format!("set {PREEMPTED} TRUE")),
    }
}

/// A service manager that says this of the system comes first in the runner's `PATH`.
fn with_system(scene: Scene, says: &str) -> Scene {
    let folder = scene.path("bin");
    fs::create_dir(&folder).unwrap();
    let systemctl = folder.join("systemctl");
    write_program(&systemctl, format!("#!/bin/sh\n[ \"$1\" = is-system-running ] && echo {says}\nexit 1\n"));
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    scene.env("PATH", &path)
}

#[test]
fn a_signal_that_follows_a_notice_of_the_end_does_not_change_what_the_notice_means() {
    at_once([EC2, AZURE, GCE], |kind| {
        let machine = Machine::new(kind);
        let scene = machine.scene();
        let go = scene.path("go");
        let wait = format!("on now: wait-file {} ; exit 0", go.display());
        let runner = scene.worker([wait.as_str(), "hello all", "wait"]).start();
        runner.wait_for_log("worker says hello");
        take_away(&machine, kind);
        runner.wait_for_log("the cloud gives notice");
        runner.wait_for_graceful_termination(false);
        runner.signal(Signal::SIGTERM);
        runner.wait_for_log("received a signal to stop");
        fs::write(go, "").unwrap();
        let ended = runner.ended();
        assert_eq!((ended.code, machine.taskcluster.count("removeWorker")), (Some(0), 1), "{}", ended.log);
    });
}

#[test]
fn a_signal_while_the_system_goes_down_is_asked_about_once() {
    at_once([EC2, AZURE, GCE], |kind| {
        let machine = Machine::new(kind);
        let scene = with_system(machine.scene(), "stopping").worker(OBEDIENT);
        let runner = scene.start();
        runner.wait_for_log("worker says hello");
        take_away(&machine, kind);
        runner.signal(Signal::SIGTERM);
        let ended = runner.ended();
        assert_eq!((ended.code, machine.taskcluster.count("removeWorker")), (Some(0), 1), "{}", ended.log);
    });
}

#[test]
fn a_system_that_goes_down_by_its_operator_keeps_the_registration() {
    at_once([(EC2, "stopping"), (AZURE, "stopping"), (GCE, "stopping"), (GCE, "running")], |(kind, says)| {
        let machine = Machine::new(kind);
        let runner = with_system(machine.scene(), says).worker(OBEDIENT).start();
        runner.wait_for_log("worker says hello");
        runner.signal(Signal::SIGTERM);
        let ended = runner.ended();
        assert_eq!((ended.code, machine.taskcluster.count("removeWorker")), (Some(0), 0), "{}", ended.log);
        assert_eq!(machine.cache()["Extra"].get("leaving"), None);
    });
}

#[test]
fn a_gpu_machine_lets_its_tasks_finish_before_its_host_is_maintained() {
    for (machine_type, restarts, told, removals) in [
        ("projects/1/machineTypes/a2-highgpu-1g", "FALSE", "finish", 1),
        ("projects/1/machineTypes/a2-highgpu-1g", "TRUE", "finish", 0),
        ("projects/1/machineTypes/n2-standard-4", "FALSE", "now", 1),
    ] {
        let machine = Machine::new(GCE);
        machine.tell(&format!("set {MAINTENANCE} NONE"));
        machine.tell(&format!("set /computeMetadata/v1/instance/machine-type {machine_type}"));
        machine.tell(&format!("set /computeMetadata/v1/instance/scheduling/automatic-restart {restarts}"));
        let runner = machine.booted(OBEDIENT);
        machine.wait_until_asked(MAINTENANCE, 2);
        machine.tell(&format!("set {MAINTENANCE} TERMINATE_ON_HOST_MAINTENANCE"));
        let ended = runner.ended();
        assert_eq!(messages(&ended.events), ["welcome", told], "{}", ended.log);
        let removed = machine.taskcluster.count("removeWorker");
        assert_eq!((ended.code, removed), (Some(0), removals), "{machine_type} {restarts}\n{}", ended.log);
    }
}

#[test]
fn a_machine_that_is_migrated_goes_on() {
    let machine = Machine::new(GCE);
    machine.tell(&format!("set {MAINTENANCE} NONE"));
    let runner = machine.booted(OBEDIENT);
    machine.wait_until_asked(MAINTENANCE, 2);
    machine.tell(&format!("set {MAINTENANCE} MIGRATE_ON_HOST_MAINTENANCE"));
    runner.wait_for_log("GCE maintains this machine's host: the machine goes on");
    machine.wait_until_asked(MAINTENANCE, 3);
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(
        (ended.code, messages(&ended.events)),
        (Some(0), vec!["welcome".to_owned(), "now".to_owned()])
    );
}

#[test]
fn what_is_missing_in_an_answer_while_the_machine_boots_is_waited_for() {
    let machine = Machine::new(AZURE);
    machine.tell(r#"set /metadata/instance {"compute": {"name": "vm-8fh2k", "location": "eastus"}}"#);
    let runner = machine.boot(OBEDIENT);
    runner.wait_for_log("the metadata service answers with a part only: asking again");
    machine.set_azure(&["worker-group"], &serde_json::json!([crate::clouds::machine::interface()]));
    runner.wait_for_log("worker says hello");
    // EC2's and GCE's documents.
    for (kind, path, partial) in [
        (EC2, "/latest/dynamic/instance-identity/document", r#"{"region": "us-west-2"}"#),
        (EC2, "/latest/user-data", ""),
        (AZURE, "/metadata/instance", "null"),
        (AZURE, "/metadata/attested/document", "null"),
        (GCE, "/computeMetadata/v1/instance/attributes/taskcluster", "{}"),
        (GCE, "/computeMetadata/v1/instance/zone", ""),
    ] {
        let machine = Machine::new(kind);
        machine.tell(&format!("set {path} {partial}"));
        let ended = machine.scene().worker(OBEDIENT).set("startTimeout", "1s").start().ended();
        assert!(ended.log.contains("answers with a part only: asking again"), "{path}\n{}", ended.log);
        assert!(ended.log.contains("answers with a part only: no longer asked"), "{path}\n{}", ended.log);
        assert!(!ended.log.contains("the metadata service answers after="), "{path}\n{}", ended.log);
        assert_eq!((ended.code, ended.starts()), (Some(1), 0), "{path}\n{}", ended.log);
    }
}
