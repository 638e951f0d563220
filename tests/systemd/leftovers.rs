//! What workers leave behind, in the unit's own cgroup.

use crate::machine::Machine;
use crate::record::named;
use crate::service::{Config, Service};

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
