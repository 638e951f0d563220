//! A machine that cannot register: the error gives the reason, requests are paced, and the machine goes away after the
//! delay.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use test_support::fake_taskcluster::{Fault, Times};

use crate::clouds::machine::{AZURE, EC2, GCE, Machine, OBEDIENT, at_once};

/// A machine that has run, and lost its cache.
fn that_lost_its_cache(kind: crate::clouds::machine::Kind) -> Machine {
    let machine = Machine::new(kind);
    let runner = machine.booted(OBEDIENT);
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    fs::remove_file(machine.cache_path()).unwrap();
    machine.taskcluster.forget_requests();
    machine
}

#[test]
fn a_machine_that_lost_its_cache_is_shut_down_after_the_delay() {
    at_once([EC2, AZURE, GCE], |kind| {
        let machine = that_lost_its_cache(kind);
        let ended = machine.scene().worker(OBEDIENT).set("host.startFailureDelay", "1s").start().ended();
        assert_eq!((ended.code, ended.starts()), (Some(1), 0), "{}", ended.log);
        assert!(
            ended.log.contains("where this one has before (its cache is lost), replace the machine"),
            "{}",
            ended.log
        );
        // Once, and nothing else of it.
        assert_eq!(machine.calls(), [("registerWorker", Some(400))]);
        assert_eq!(ended.host_commands, ["shutdown"]);
        assert!(ended.after >= Duration::from_secs(1), "{:?}", ended.after);
    });
}

#[test]
fn a_stop_in_the_delay_ends_it_and_the_machine_stays() {
    let machine = that_lost_its_cache(EC2);
    let runner = machine.scene().worker(OBEDIENT).set("host.startFailureDelay", "1h").start();
    runner.wait_for_log("this machine is removed after host.startFailureDelay");
    assert!(runner.is_running());
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.host_commands), (Some(1), vec![]), "{}", ended.log);
    assert_eq!(machine.calls(), [("registerWorker", Some(400))]);
}

#[test]
fn a_lost_answer_is_why_the_second_attempt_is_refused() {
    at_once([EC2, AZURE, GCE], |kind| {
        let machine = Machine::new(kind);
        machine.taskcluster.fail("registerWorker", Times::Only(1), Fault::AnswerLost);
        let ended = machine.boot(OBEDIENT).ended();
        assert_eq!(
            (ended.code, ended.starts(), ended.host_commands),
            (Some(1), 0, vec!["shutdown".to_owned()])
        );
        assert!(
            ended.log.contains("an earlier attempt was carried out and its answer was lost"),
            "{}",
            ended.log
        );
        assert_eq!(machine.taskcluster.count("registerWorker"), 2);
    });
}

#[test]
fn a_registration_that_nobody_answers_ends_with_69() {
    let machine = Machine::new(GCE);
    machine.taskcluster.fail("registerWorker", Times::UntilCleared, Fault::bad_gateway());
    let ended = machine.scene().worker(OBEDIENT).set("startTimeout", "2s").start().ended();
    assert_eq!((ended.code, ended.starts(), ended.host_commands), (Some(75), 0, vec!["shutdown".to_owned()]));
    let attempts = machine.taskcluster.count("registerWorker");
    assert!((2..10).contains(&attempts), "{attempts}");
}

#[test]
fn a_registered_machine_whose_secrets_are_refused_is_removed() {
    let machine = Machine::new(EC2);
    machine.taskcluster.fail("secret", Times::UntilCleared, Fault::answer(403, "text/html", "forbidden"));
    let ended = machine.scene().worker(OBEDIENT).set("getSecrets", true).start().ended();
    assert_eq!((ended.code, ended.starts(), ended.host_commands), (Some(1), 0, vec![]), "{}", ended.log);
    assert_eq!(machine.only("removeWorker").status, Some(200));
    assert_eq!(machine.boot(OBEDIENT).ended().starts(), 0);
}
