//! `systemctl stop`, with workers that obey and others.

use crate::systemd::machine::{Machine, eventually};
use crate::systemd::service::{Config, OBEDIENT, Service};

/// Mount point of a file system that never answers.
const HUNG: &str = "/var/lib/hung";

/// Nothing ends it but SIGKILL.
const STUBBORN: [&str; 7] = [
    "on now:",
    "on finish:",
    "on SIGTERM:",
    "hello all",
    "spawn session ignore-term",
    "spawn daemon ignore-term",
    "wait",
];

#[test]
fn a_worker_that_obeys_ends_before_it_is_signalled() {
    let Some(machine) = Machine::borrow() else { return };
    let service = Service::install(&machine, &Config::new(&machine, OBEDIENT)).started();
    service.must("stop");
    let now = service.properties();
    assert!(
        now.is("inactive") && now.get("Result") == "success" && now.get("ExecMainStatus") == "0",
        "{now:?}"
    );
    let events = service.events();
    assert_eq!(test_support::record::messages(&events), ["welcome", "now"]);
    assert!(test_support::record::signals(&events).is_empty(), "{events:?}");
}

#[test]
fn a_worker_that_ignores_everything_is_killed_with_all_it_has_started() {
    let Some(machine) = Machine::borrow() else { return };
    let config = Config::new(&machine, STUBBORN).set("supervision.stopTimeout", "500ms");
    let service = Service::install(&machine, &config).started();
    service.wait_for_descendants(2);
    let before = service.processes();
    assert_eq!(before.len(), 4, "{before:?}");
    service.must("stop");
    let now = service.properties();
    assert!(
        now.is("inactive") && now.get("Result") == "success" && now.get("ExecMainStatus") == "0",
        "{now:?}"
    );
    service.assert_gone(&before);
    // The runner has seen to it, not systemd.
    service.assert_no_manager_entry("Killing process");
    assert_eq!(test_support::record::signals(&service.events()), ["SIGTERM"]);
}

#[test]
fn a_stop_may_take_longer_than_systemd_allows_for_as_long_as_the_runner_is_configured_to_wait() {
    let Some(machine) = Machine::borrow() else { return };
    let slow = ["on now: sleep 3s ; exit 72", "hello all", "wait"];
    let service =
        Service::install(&machine, &Config::new(&machine, slow)).drop_in("TimeoutStopSec=1s").started();
    service.wait_for_event("welcome", |event| event.text("type") == "welcome");
    service.must("stop");
    let now = service.properties();
    assert!(now.is("inactive") && now.get("Result") == "success", "{now:?}");
    let events = service.events();
    assert_eq!(events.last().map(|event| event.field("code").clone()), Some(72.into()), "{events:?}");
}

#[test]
fn a_worker_that_is_stuck_in_the_kernel_keeps_a_stop_no_longer_than_the_runners_and_systemds_limits() {
    let Some(machine) = Machine::borrow() else { return };
    let disk = machine.mount_hung(HUNG);
    let file = disk.path("x").display().to_string();
    let config = Config::new(&machine, ["hello all", &format!("wait-file {file}")]);
    let config = config.set("supervision.stopTimeout", "500ms");
    // A process that cannot be killed keeps its cgroup: after its SIGKILL, systemd waits for it for the same time
    // again.
    let service = Service::install(&machine, &config).drop_in("TimeoutStopSec=5s").started();
    let (runner, worker) = (service.properties().pid(), service.wait_for_start(1).pid());
    let waits = eventually(|| {
        (machine.ask(["cat", &format!("/proc/{worker}/wchan")]) == "request_wait_answer").then_some(())
    });
    waits.unwrap_or_else(|| panic!("the worker does not wait for the disk\n{}", *machine));
    service.must("stop");
    let now = service.properties();
    assert!(now.is("failed") && now.get("ExecMainStatus") == "1", "{now:?}\n{}", *machine);
    service.assert_gone(&[runner]);
    service.wait_for_entry("worker cannot be killed: it is stuck in the kernel");
    service.wait_for_entry("start-worker ends: the worker cannot be killed");
    // The runner has exited by itself; systemd has killed only the leftovers.
    service.assert_no_manager_entry("State 'stop-sigterm' timed out");
    drop(disk);
    let lives = || machine.run(["test", "-e", &format!("/proc/{worker}")]).status.success();
    eventually(|| (!lives()).then_some(())).expect("with the disk the worker goes");
    machine.ask(["umount", "--lazy", HUNG]);
}
