//! A metadata service that fails while it is watched for notices: a line when it begins, a line when it is over, and the
//! next notice counts.

use std::time::{Duration, Instant};

use test_support::fake_metadata::Cloud;

use crate::clouds::machine::{
    ACTION, AZURE, EC2, EVENTS, GCE, Machine, OBEDIENT, PREEMPTED, at_once, log_from,
};
use crate::harness::{Runner, eventually, messages};

const FAULTS: [&str; 5] = ["500", "401", "garbage", "close", "hang"];

/// After a fault is over: one line when it began, one when it ended, and the notice.
#[track_caller]
fn assert_told_once(runner: &Runner) {
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(messages(&ended.events), ["welcome", "now"], "{}", ended.log);
    for line in ["interruptions cannot be watched for", "interruptions are watched for again"] {
        assert_eq!(ended.log.matches(line).count(), 1, "{line}\n{}", ended.log);
    }
    let others: Vec<String> = log_from(&ended.log, "worker says hello")
        .into_iter()
        .take_while(|line| !line.contains("the cloud gives notice"))
        .filter(|line| !line.contains("interruptions"))
        .collect();
    assert_eq!(others.len(), 1, "{others:#?}");
}

#[test]
fn a_service_that_fails_is_mentioned_once_and_the_next_notice_counts() {
    let ec2 = FAULTS.map(|fault| (EC2, fault));
    let azure = FAULTS.map(|fault| (AZURE, fault));
    // A hang lasts 75 s, which is the point of the test.
    let gce = ["500", "401", "garbage", "close"].map(|fault| (GCE, fault));
    let sessions = [(EC2, "sessions end")];
    at_once(sessions.into_iter().chain(ec2).chain(azure).chain(gce), |(kind, fault)| match kind.cloud {
        Cloud::Ec2 if fault == "sessions end" => with_sessions_that_end(),
        Cloud::Ec2 => on_ec2(fault),
        Cloud::Azure => on_azure(fault),
        Cloud::Gce => on_gce(fault),
    });
}

fn on_ec2(fault: &str) {
    let machine = Machine::new(EC2);
    let runner = machine.booted(OBEDIENT);
    machine.wait_until_asked(ACTION, 2);
    machine.tell(&format!("fault {ACTION} {fault}"));
    runner.wait_for_log("interruptions cannot be watched for");
    machine.tell("clear");
    machine.spot("terminate", Duration::from_secs(120));
    assert_told_once(&runner);
}

fn on_azure(fault: &str) {
    let machine = Machine::new(AZURE);
    let runner = machine.booted(OBEDIENT);
    machine.wait_until_asked(EVENTS, 2);
    machine.tell(&format!("fault {EVENTS} {fault}"));
    runner.wait_for_log("interruptions cannot be watched for");
    // The watch continues silently.
    let asked = machine.asked(EVENTS);
    machine.wait_until_asked(EVENTS, asked + 2);
    machine.tell("clear");
    machine.events(&[("e-1", "Terminate", &[AZURE.worker], 60)]);
    assert_told_once(&runner);
}

/// A hanging GET that fails at once is no tight loop; nor is it mentioned again and again where others work.
fn on_gce(fault: &str) {
    let machine = Machine::new(GCE);
    let hanging = format!("{PREEMPTED}?wait_for_change=true");
    let wait_for_hanging = |count: usize| {
        let come = || {
            let requests = machine.metadata.requests();
            requests.iter().filter(|request| request.target.starts_with(&hanging)).count() >= count
        };
        assert!(eventually(|| come().then_some(())).is_some(), "{count}");
        Instant::now()
    };
    machine.tell(&format!("fault {hanging} {fault}"));
    let runner = machine.booted(OBEDIENT);
    let first = wait_for_hanging(1);
    let pause = wait_for_hanging(2) - first;
    assert!(pause > Duration::from_secs(4), "{pause:?}");
    runner.wait_for_log("interruptions cannot be watched for");
    machine.tell("clear");
    wait_for_hanging(3);
    machine.tell(&format!("set {PREEMPTED} TRUE"));
    assert_told_once(&runner);
}

/// A session token that is refused is renewed in silence.
fn with_sessions_that_end() {
    let machine = Machine::new(EC2);
    let runner = machine.booted(OBEDIENT);
    machine.wait_until_asked(ACTION, 2);
    machine.tell("expire-sessions");
    let tokens = machine.asked("/latest/api/token");
    machine.spot("terminate", Duration::from_secs(120));
    let ended = runner.ended();
    assert_eq!(messages(&ended.events), ["welcome", "now"], "{}", ended.log);
    assert_eq!(machine.asked("/latest/api/token"), tokens + 1);
    assert!(!ended.log.contains("cannot be watched for"), "{}", ended.log);
}

#[test]
fn a_start_waits_for_a_metadata_service_that_is_not_up_yet() {
    at_once([EC2, AZURE, GCE], |kind| {
        let machine = Machine::new(kind);
        machine.tell("fault * close");
        let runner = machine.boot(OBEDIENT);
        runner.wait_for_log("the metadata service gives no answer: asking again");
        machine.tell("clear");
        runner.wait_for_log("worker says hello");
        assert_eq!(runner.log().matches("the metadata service gives no answer").count(), 1);
        assert_eq!(machine.taskcluster.count("registerWorker"), 1);
    });
}

#[test]
fn a_start_that_nobody_answers_ends_with_69_and_leaves_the_machine() {
    at_once([EC2, AZURE, GCE], |kind| {
        let machine = Machine::new(kind);
        machine.tell("fault * 503");
        let ended = machine.scene().worker(OBEDIENT).set("startTimeout", "1s").start().ended();
        assert_eq!((ended.code, ended.starts(), ended.host_commands), (Some(75), 0, vec![]), "{}", ended.log);
        assert_eq!(machine.calls(), []);
    });
}
