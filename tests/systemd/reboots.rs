//! Boots, one after the other: what continues, and what waits for an operator.

use std::time::Duration;

use serde_json::{Value, json};
use test_support::fake_taskcluster::{Fault, Times};

use crate::systemd::cloud::{self, Instance};
use crate::systemd::machine::{DEADLINE, Machine, eventually};
use crate::systemd::service::{Config, OBEDIENT, Service};

const REGISTER: &str = "registerWorker";
const REREGISTER: &str = "reregisterWorker";

/// Reboots the machine under test, and never a machine that the tests run on.
const REBOOT: &str = "systemd-detect-virt --container --quiet && systemctl reboot";

/// The access token in the worker's configuration file.
fn token(machine: &Machine) -> String {
    let config: Value = serde_json::from_str(&machine.read("/var/lib/start-worker/worker.json")).unwrap();
    config["accessToken"].as_str().unwrap().to_owned()
}

/// The user of the task after the N-th start.
fn user(start: usize) -> String {
    format!("task_{start}")
}

/// Makes the machine's one terminal a getty like those that a host without a desktop has.
fn serve_the_console(machine: &Machine) {
    let unit = machine.read("/usr/lib/systemd/system/serial-getty@.service");
    // Nothing on the machine tells systemd that a device is there.
    let lines = unit.lines().filter(|line| !line.contains("dev-%i.device"));
    let unit: String = lines.flat_map(|line| [line, "\n"]).collect();
    assert!(unit.contains("ExecStart="), "{unit}");
    machine.write("/etc/systemd/system/serial-getty@.service", &unit);
    machine.systemctl("mask --quiet console-getty.service");
    machine.systemctl("enable --quiet serial-getty@console.service");
}

/// Waits until this user, and no other, is logged in.
fn wait_for_login(machine: &Machine, user: &str) {
    let ask = |command: &[&str]| String::from_utf8(machine.run(command).stdout).unwrap();
    let logged_in = eventually(|| {
        let (sessions, who) = (ask(&["loginctl", "list-sessions", "--no-legend"]), ask(&["who"]));
        let alone = sessions.lines().count() == 1 && who.lines().count() == 1;
        (alone && sessions.contains(user) && who.contains(user)).then_some(())
    });
    assert!(
        logged_in.is_some(),
        "{user} is not logged in: {} {}\n{machine}",
        ask(&["loginctl"]),
        ask(&["who"])
    );
}

#[test]
fn a_worker_that_reboots_between_tasks_goes_on_with_the_newest_credentials_and_registers_once() {
    let Some(machine) = Machine::borrow() else { return };
    // Credentials that are renewed at once, when the first worker runs.
    let _instance = Instance::launch(&machine, Duration::from_secs(25));
    let renewing = machine.taskcluster.fail(REREGISTER, Times::UntilCleared, Fault::Hang);
    let login = |start| {
        format!("send {{\"type\":\"autologin\",\"user\":\"{}\"}} ; await autologin-result", user(start))
    };
    let script = [
        "hello all",
        // The worker asks the system; then the runner is asked; then the worker again.
        &format!("start 1: await new-credentials ; {} ; run systemctl reboot ; exit 67", login(2)),
        &format!(
            "start 2: wait-file /var/lib/record/go-2 ; {} ; send {{\"type\":\"reboot\"}} ; exit 67",
            login(3)
        ),
        &format!("start 3: wait-file /var/lib/record/go-3 ; {} ; run systemctl reboot ; exit 67", login(4)),
        "start 4: on now: exit 72",
        "start 4: wait",
    ];
    let config = cloud::config(&machine, &script)
        .set("worker.restartInPlace", false)
        .set("host.rebootCommand", json!(["sh", "-c", REBOOT]))
        .set("autologin", json!({"displayManager": "getty", "tty": "console", "allowedUsers": "task_*"}));
    let service = Service::install(&machine, &config);
    serve_the_console(&machine);
    for start in 2..=4 {
        machine.ask(["useradd", "--create-home", "--shell=/bin/bash", &user(start)]);
    }
    service.must("enable");
    let service = service.started();
    let first = token(&machine);
    machine.taskcluster.wait_for(REREGISTER, 1, DEADLINE);
    machine.taskcluster.set_credentials_life(Duration::from_secs(3600));
    let mut init = machine.init();
    machine.taskcluster.clear_fault(renewing);
    for start in 2..=4 {
        init = machine.wait_for_boot_after(init);
        service.wait_for_start(start);
        let told = service.wait_for_event("new credentials", |event| event.text("type") == "new-credentials");
        assert_eq!(token(&machine), told.field("message")["access-token"]);
        assert_ne!(token(&machine), first);
        service.wait_for("up", |now| now.is("active"));
        wait_for_login(&machine, &user(start));
        machine.write(&format!("/var/lib/record/go-{start}"), "");
    }
    service.must("stop");
    assert_eq!((machine.taskcluster.count(REGISTER), machine.taskcluster.count(REREGISTER)), (1, 1));
    assert_eq!(machine.taskcluster.count("removeWorker"), 0);
    assert_eq!((service.starts(), service.properties().get("ExecMainStatus")), (4, "0"));
    machine.systemctl("stop serial-getty@console.service");
    for start in 2..=4 {
        machine.run(["loginctl", "terminate-user", &user(start)]);
        machine.ask(["userdel", "--force", "--remove", &user(start)]);
    }
}

#[test]
fn a_worker_that_was_removed_is_not_started_again() {
    let Some(machine) = Machine::borrow() else { return };
    let _instance = Instance::launch(&machine, Duration::from_secs(3600));
    let service = Service::install(&machine, &cloud::config(&machine, &["hello all", "exit 0"])).starting();
    service.must("enable");
    machine.taskcluster.wait_for_answers("removeWorker", 1, DEADLINE);
    assert!(service.ended().is("inactive"));
    let init = machine.init();
    machine.systemctl("reboot");
    machine.wait_for_boot_after(init);
    service.wait_for_entry("this worker was removed from worker-manager");
    let now = service.ended();
    assert_eq!((now.get("Result"), now.get("ExecMainStatus"), now.get("NRestarts")), ("success", "0", "0"));
    assert_eq!((service.starts(), machine.taskcluster.count("removeWorker")), (1, 1));
}

#[test]
fn a_host_that_was_drained_before_its_reboot_waits_for_somebody_to_resume_it() {
    let Some(machine) = Machine::borrow() else { return };
    let script = [
        "hello all",
        "start 1: on finish: run systemctl reboot ; exit 67",
        "start 2: on now: exit 72",
        "wait",
    ];
    let config = Config::new(&machine, script).set("worker.restartInPlace", false);
    let service = Service::install(&machine, &config).started();
    service.must("enable");
    let init = machine.init();
    machine.ask(["start-worker", "drain", "--reason", "new disk"]);
    machine.wait_for_boot_after(init);
    // Ready, for the boot is not to wait for somebody.
    service.wait_for("holding", |now| {
        let text = now.get("StatusText");
        now.is("active")
            && text.starts_with("holding")
            && text.contains("by root")
            && text.ends_with(": new disk")
    });
    service.wait_for_entry("start-worker resume");
    assert_eq!(service.starts(), 1);
    // A restart of the service changes nothing.
    service.must("restart");
    service.wait_for("still holding", |now| now.is("active") && now.get("StatusText").starts_with("holding"));
    assert_eq!(service.starts(), 1);
    machine.ask(["start-worker", "resume"]);
    service.wait_for_start(2);
    service.wait_for("up", |now| now.is("active") && now.get("StatusText").starts_with("running"));
}

#[test]
fn a_host_that_is_held_while_its_service_is_down_holds_at_the_next_boot_and_is_resumed_without_it() {
    let Some(machine) = Machine::borrow() else { return };
    let service = Service::install(&machine, &Config::new(&machine, OBEDIENT)).started();
    service.wait_for_start(1);
    service.must("enable");
    service.must("stop");
    machine.ask(["start-worker", "hold", "--reason", "new disk"]);
    let init = machine.init();
    machine.systemctl("reboot");
    machine.wait_for_boot_after(init);
    service.wait_for("holding", |now| {
        now.is("active")
            && now.get("StatusText").starts_with("holding")
            && now.get("StatusText").ends_with(": new disk")
    });
    service.must("stop");
    machine.ask(["start-worker", "resume"]);
    service.must("start");
    service.wait_for_start(2);
}

#[test]
fn a_host_that_is_switched_off_asks_its_worker_to_stop() {
    let Some(machine) = Machine::borrow() else { return };
    let service = Service::install(&machine, &Config::new(&machine, OBEDIENT)).started();
    service.wait_for_event("welcome", |event| event.text("type") == "welcome");
    let init = machine.init();
    machine.systemctl("reboot");
    machine.wait_for_boot_after(init);
    let events = service.events();
    assert_eq!(test_support::record::messages(&events), ["welcome", "now"]);
    assert_eq!(events.last().map(|event| event.field("code").clone()), Some(72.into()));
    assert!(eventually(|| service.properties().is("inactive").then_some(())).is_some());
}
