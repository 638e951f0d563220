//! Processes that workers leave behind, in the unit's own cgroup.

use test_support::record::named;

use crate::systemd::machine::Machine;
use crate::systemd::service::{Config, RECORD, Service};

/// Two starts; the first leaves behind what it can.
const UNTIDY: [&str; 6] = [
    "on now: exit 72",
    "hello all",
    "start 1: spawn group ignore-term",
    "start 1: spawn session ignore-term",
    "start 1: spawn daemon ignore-term",
    "start 2: wait",
];

#[test]
fn what_a_worker_has_left_is_gone_when_the_next_one_starts() {
    let Some(machine) = Machine::borrow() else { return };
    let config = Config::new(&machine, UNTIDY).set("supervision.restart", "always");
    let service = Service::install(&machine, &config).started();
    service.wait_for_start(2);
    let events = service.events();
    let left: Vec<i32> = named(&events, "descendant").iter().map(|event| event.pid()).collect();
    assert_eq!(left.len(), 3, "{events:?}");
    service.assert_gone(&left);
    assert_eq!(service.processes().len(), 2);
}

/// The unit's own cgroup, which is the runner's.
const UNIT: &str = "/sys/fs/cgroup/system.slice/start-worker.service";

#[test]
fn what_hides_from_a_walk_through_proc_or_leaves_the_workers_cgroup_is_gone_when_the_worker_has_ended() {
    let Some(machine) = Machine::borrow() else { return };
    let leaves = [
        "spawn chain ignore-term".to_owned(),
        "spawn leaderless ignore-term".to_owned(),
        format!("spawn daemon wiped ignore-term cgroup={UNIT}"),
        format!("spawn leaderless cgroup={UNIT}/sibling"),
    ];
    let obedient = ["on now: exit 72", "hello all", "start 2: wait"].map(str::to_owned);
    let script = obedient.into_iter().chain(leaves.iter().map(|leave| format!("start 1: {leave}")));
    let config = Config::new(&machine, script).set("supervision.restart", "always");
    let service = Service::install(&machine, &config).started();
    service.wait_for_start(2);
    assert_eq!(named(&service.events(), "descendant").len(), leaves.len());
    // Each of them holds a lock while it lives.
    let free = machine.run(["flock", "--nonblock", &format!("{RECORD}.lives"), "true"]);
    assert!(free.status.success(), "{}", machine.read(RECORD));
    assert_eq!(service.processes().len(), 2, "{}", machine.read(RECORD));
}

#[test]
fn the_worker_lives_in_a_cgroup_below_the_runners() {
    let Some(machine) = Machine::borrow() else { return };
    let service =
        Service::install(&machine, &Config::new(&machine, crate::systemd::service::OBEDIENT)).started();
    let group = |pid: i32| {
        let groups = machine.ask(["cat", &format!("/proc/{pid}/cgroup")]);
        groups.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned)).unwrap()
    };
    let (runner, worker) = (group(service.properties().pid()), group(service.wait_for_start(1).pid()));
    assert!(runner.ends_with("/system.slice/start-worker.service"), "{runner}");
    assert!(worker.starts_with(&format!("{runner}/")), "{worker} {runner}");
}
