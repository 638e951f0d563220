//! Starts that come to nothing, and which of them systemd tries again.

use crate::systemd::machine::Machine;
use crate::systemd::service::{Config, OBEDIENT, Service};
use serde_json::json;

#[test]
fn an_invalid_configuration_fails_once() {
    let Some(machine) = Machine::borrow() else { return };
    let config = Config::new(&machine, OBEDIENT).set("worker.implementation", "no-such-worker");
    let service = Service::install(&machine, &config).starting();
    let now = service.ended();
    assert_eq!(
        (now.get("Result"), now.get("ExecMainStatus"), now.get("NRestarts")),
        ("exit-code", "64", "0")
    );
    service.wait_for_entry("no-such-worker");
}

#[test]
fn somebody_elses_configuration_that_all_can_read_fails_once() {
    let Some(machine) = Machine::borrow() else { return };
    let service = Service::install(&machine, &Config::new(&machine, OBEDIENT));
    machine.ask(["chown", "daemon", "/etc/start-worker.yml"]);
    machine.ask(["chmod", "0644", "/etc/start-worker.yml"]);
    let now = service.starting().ended();
    assert_eq!(
        (now.get("Result"), now.get("ExecMainStatus"), now.get("NRestarts")),
        ("exit-code", "77", "0")
    );
}

#[test]
fn what_may_pass_is_tried_again() {
    let Some(machine) = Machine::borrow() else { return };
    let config = Config::new(&machine, OBEDIENT)
        .set("worker.path", "/usr/bin/not-yet-there")
        .set("supervision.failureBackoff", json!({"initial": "100ms", "max": "200ms"}));
    let service = Service::install(&machine, &config).drop_in("RestartSec=100ms").starting();
    service.wait_for("tried again", |now| now.get("NRestarts").parse::<u32>().is_ok_and(|count| count > 1));
    machine.ask(["ln", "-s", "test-worker", "/usr/bin/not-yet-there"]);
    service.wait_for("up", |now| now.is("active"));
    machine.ask(["rm", "/usr/bin/not-yet-there"]);
}

#[test]
fn the_unit_of_before_and_this_one_end_each_other() {
    let Some(machine) = Machine::borrow() else { return };
    let mut service = Service::install(&machine, &Config::new(&machine, OBEDIENT));
    for old in ["worker.service", "generic-worker.service", "docker-worker.service"] {
        machine.write(&format!("/etc/systemd/system/{old}"), "[Service]\nExecStart=sleep infinity\n");
        machine.systemctl(&format!("start {old}"));
        service = service.started();
        assert!(!machine.run(["systemctl", "is-active", old]).status.success(), "{old}");
        machine.systemctl(&format!("start {old}"));
        assert!(service.ended().is("inactive"), "{old}");
        machine.systemctl(&format!("stop {old}"));
    }
}
