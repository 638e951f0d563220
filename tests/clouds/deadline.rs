//! A machine's end at a known time: whatever its worker does, it is gone and removed before that.

use std::time::{Duration, Instant};

use test_support::fake_metadata::Cloud;

use crate::clouds::machine::{AZURE, EC2, EVENTS, Kind, Machine, at_once};
use crate::harness::{messages, signals};

/// Ignores all requests to stop.
const STUBBORN: [&str; 5] =
    ["on now: note ignored", "on finish: note ignored", "on SIGTERM:", "hello all", "wait"];

/// Lead time of the notices in these tests: thirty seconds and two minutes would be too long for a test.
const AHEAD: Duration = Duration::from_secs(12);

/// The clouds tell whole seconds, here the one that has begun.
const BEGUN_SECOND: Duration = Duration::from_secs(1);

/// EC2's may be seen 5 s late, and a runner that sees less than 10 s believes that the clock is wrong.
const AHEAD_ON_EC2: Duration = Duration::from_secs(15);

#[test]
fn a_worker_that_ignores_the_notice_is_killed_and_removed_before_the_machines_end() {
    std::thread::scope(|scope| {
        scope.spawn(whatever_it_was_told);
        scope.spawn(even_where_an_acknowledgement_hangs);
    });
}

fn whatever_it_was_told() {
    type Settings = &'static [(&'static str, &'static str)];
    // Cloud, other settings, messages to the worker.
    let cases: [(Kind, Settings, &[&str]); 3] = [
        (EC2, &[], &["welcome", "now"]),
        (AZURE, &[], &["welcome", "now"]),
        // There is time for tasks at first.
        (
            AZURE,
            &[("provider.finishTasksIfDeadlineOver", "5s"), ("supervision.stopTimeout", "4s")],
            &["welcome", "finish", "now"],
        ),
    ];
    at_once(cases, |(kind, settings, told)| {
        let machine = Machine::new(kind);
        let scene = machine.scene().worker(STUBBORN).set("supervision.stopTimeout", "1h");
        let scene = scene.set("supervision.killTimeout", "2s");
        let scene = settings.iter().fold(scene, |scene, (key, value)| scene.set(key, *value));
        let runner = scene.start();
        runner.wait_for_log("worker says hello");
        let ahead = if kind.cloud == Cloud::Azure { AHEAD } else { AHEAD_ON_EC2 };
        if kind.cloud == Cloud::Azure {
            machine.wait_until_asked(EVENTS, 1);
            machine.events(&[("t", "Terminate", &[kind.worker], ahead.as_secs())]);
        } else {
            machine.spot("terminate", ahead);
        }
        let deadline = Instant::now() + ahead.saturating_sub(BEGUN_SECOND);
        let end = runner.end();
        let ended = runner.ended();
        assert!(end < deadline, "{:?} too late\n{}", end - deadline, ended.log);
        assert_eq!(
            (ended.code, messages(&ended.events)),
            (Some(0), told.iter().map(ToString::to_string).collect())
        );
        assert_eq!(signals(&ended.events), ["SIGTERM"], "{}", ended.log);
        assert!(machine.only("removeWorker").at < deadline);
        runner.assert_nothing_left();
    });
}

fn even_where_an_acknowledgement_hangs() {
    let machine = Machine::new(AZURE);
    let scene = machine.scene().worker(STUBBORN).set("provider.acknowledgeEvents", true);
    let runner = scene.set("supervision.stopTimeout", "1h").start();
    runner.wait_for_log("worker says hello");
    machine.wait_until_asked(EVENTS, 1);
    machine.events(&[("t", "Terminate", &[AZURE.worker], AHEAD.as_secs())]);
    let deadline = Instant::now() + AHEAD.saturating_sub(BEGUN_SECOND);
    runner.wait_for_note("ignored");
    machine.tell(&format!("fault {EVENTS} hang"));
    machine.wait_for_call("removeWorker", 1);
    assert!(machine.only("removeWorker").at < deadline, "{runner}");
    assert_eq!(runner.ended().code, Some(0));
}
