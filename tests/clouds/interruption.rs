//! A cloud's notices: the worker is told at once, and only once, and nothing else is logged.

use std::time::{Duration, Instant};

use test_support::fake_taskcluster::WorkerState;

use crate::clouds::machine::{
    ACTION, AZURE, EC2, EVENTS, GCE, Kind, Machine, OBEDIENT, PREEMPTED, at_once, log_from,
};
use crate::harness::{Ended, messages, signals};

/// Extra time on a loaded host for operations that take milliseconds.
const SLACK: Duration = Duration::from_millis(900);

/// Gives notice of the machine's end.
fn give_notice(machine: &Machine) {
    match machine.kind.provider {
        "aws" => machine.spot("terminate", Duration::from_secs(120)),
        "azure" => machine.events(&[("e-1", "Preempt", &[machine.kind.worker], 30)]),
        _ => machine.tell(&format!("set {PREEMPTED} TRUE")),
    }
}

/// Waits until the cloud is being asked.
fn wait_until_watched(machine: &Machine) {
    match machine.kind.provider {
        "aws" => machine.wait_until_asked(ACTION, 2),
        "azure" => machine.wait_until_asked(EVENTS, 1),
        // The second is the one that hangs.
        _ => machine.wait_until_asked(PREEMPTED, 3),
    }
}

/// The worker was told once, and the machine is gone.
#[track_caller]
fn assert_taken_away(machine: &Machine, ended: &Ended) {
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!(messages(&ended.events), ["welcome", "now"], "{}", ended.log);
    assert_eq!(signals(&ended.events), [""; 0]);
    assert_eq!(machine.taskcluster.count("removeWorker"), 1, "{}", ended.log);
    assert_eq!(machine.taskcluster.worker_state(&machine.key), Some(WorkerState::Stopped));
    assert_eq!(ended.host_commands, [""; 0]);
    assert_eq!(ended.log.matches("the cloud gives notice").count(), 1, "{}", ended.log);
}

/// Time from the notice to the worker's receipt of the message.
fn notice_to_message(kind: Kind) -> Duration {
    let machine = Machine::new(kind);
    let runner = machine.booted(OBEDIENT);
    wait_until_watched(&machine);
    let before = jiff::Timestamp::now().as_microsecond();
    give_notice(&machine);
    let told = runner.wait_for_graceful_termination(false).field("wall").as_i64().unwrap();
    assert_taken_away(&machine, &runner.ended());
    Duration::from_micros(u64::try_from(told - before).unwrap_or_default())
}

#[test]
fn a_spot_notice_is_with_the_worker_within_one_poll() {
    let took = notice_to_message(EC2);
    assert!(took < Duration::from_secs(5) + SLACK, "{took:?}");
}

#[test]
fn a_scheduled_event_is_with_the_worker_within_one_poll() {
    let took = notice_to_message(AZURE);
    assert!(took < Duration::from_secs(1) + SLACK, "{took:?}");
}

#[test]
fn a_preemption_is_with_the_worker_within_100_milliseconds() {
    // Other processes may have had the processor, so the median counts.
    let mut took: Vec<Duration> = (0..5).map(|_| notice_to_message(GCE)).collect();
    took.sort();
    assert!(took[2] < Duration::from_millis(100), "{took:?}");
    assert!(took[4] < SLACK, "{took:?}");
}

#[test]
fn what_concerns_others_or_passes_by_is_not_mentioned() {
    let machine = Machine::new(AZURE);
    let vm = AZURE.worker;
    let runner =
        machine.booted(["on now: note told ; sleep 2s ; exit 0", "await welcome", "hello all", "wait"]);
    wait_until_watched(&machine);
    let seen = |count: usize| machine.wait_until_asked(EVENTS, machine.asked(EVENTS) + count);
    machine.events(&[("f", "Freeze", &[vm], 60), ("o", "Terminate", &["another"], 60)]);
    seen(2);
    machine.events(&[("o", "Terminate", &["another", "one-more"], 60)]);
    seen(2);
    let quiet = log_from(&runner.log(), "worker says hello");
    assert_eq!(quiet.len(), 1, "{quiet:#?}");
    assert_eq!(messages(&runner.events()), ["welcome"]);

    machine.events(&[("t", "Terminate", &["another", vm], 60), ("f", "Freeze", &[vm], 60)]);
    runner.wait_for_note("told");
    machine.events(&[]);
    runner.wait_for_log("Azure has cancelled a scheduled event, or it is over");
    assert!(runner.is_running());
    assert_taken_away(&machine, &runner.ended());
}

#[test]
fn a_notice_before_the_hello_is_kept_and_sent_with_it() {
    at_once([AZURE, GCE], |kind| {
        let machine = Machine::new(kind);
        let scene = machine.scene();
        let go = scene.path("go");
        let script = [
            "on now: exit 0".to_owned(),
            "await welcome".to_owned(),
            "note up".to_owned(),
            format!("wait-file {}", go.display()),
            "hello all".to_owned(),
            "wait".to_owned(),
        ];
        let runner = scene.worker(script).start();
        runner.wait_for_note("up");
        wait_until_watched(&machine);
        give_notice(&machine);
        runner.wait_for_log("the cloud gives notice");
        assert_eq!(messages(&runner.events()), ["welcome"]);
        std::fs::write(go, "").unwrap();
        assert_taken_away(&machine, &runner.ended());
    });
}

#[test]
fn a_worker_that_never_says_hello_is_terminated_five_seconds_after_a_notice() {
    let machine = Machine::new(AZURE);
    let runner = machine.boot(["note up", "wait"]);
    runner.wait_for_note("up");
    give_notice(&machine);
    runner.wait_for_log("the cloud gives notice");
    let noticed = Instant::now();
    let took = runner.end() - noticed;
    let ended = runner.ended();
    assert!((4.5..9.0).contains(&took.as_secs_f64()), "{took:?}");
    assert_eq!((signals(&ended.events), ended.code), (vec!["SIGTERM"], Some(0)));
    assert_eq!(machine.taskcluster.count("removeWorker"), 1);
}

#[test]
fn a_machine_that_is_marked_for_its_end_neither_registers_nor_starts_a_worker() {
    at_once([EC2, GCE], |kind| {
        let machine = Machine::new(kind);
        give_notice(&machine);
        let ended = machine.boot(OBEDIENT).ended();
        assert!(ended.log.contains("instance is about to shut down"), "{}", ended.log);
        assert_eq!((ended.code, ended.starts(), machine.calls().len()), (Some(1), 0, 0));
    });
}

#[test]
fn an_azure_machine_whose_first_events_take_minutes_starts_its_worker_at_once() {
    let machine = Machine::new(AZURE);
    machine.tell(&format!("fault {EVENTS} hang"));
    let runner = machine.booted(OBEDIENT);
    machine.wait_until_asked(EVENTS, 1);
    crate::harness::wait_until(Instant::now() + Duration::from_secs(3));
    // Nor do the calls pile up, nor is it a trouble.
    assert_eq!(machine.asked(EVENTS), 1);
    let quiet = log_from(&runner.log(), "worker says hello");
    assert_eq!(quiet.len(), 1, "{quiet:#?}");
    give_notice(&machine);
    machine.tell("clear");
    assert_taken_away(&machine, &runner.ended());
}

#[test]
fn a_machine_that_comes_back_keeps_its_registration_and_goes_on_with_it() {
    type Give = fn(&Machine);
    let notices: [(Kind, Give); 3] = [
        (EC2, |machine| machine.spot("stop", Duration::from_secs(120))),
        (EC2, |machine| machine.spot("hibernate", Duration::from_secs(120))),
        (AZURE, |machine| machine.events(&[("r", "Reboot", &[machine.kind.worker], 60)])),
    ];
    at_once(notices, |(kind, give)| {
        let machine = Machine::new(kind);
        let runner = machine.booted(OBEDIENT);
        wait_until_watched(&machine);
        give(&machine);
        let ended = runner.ended();
        assert_eq!(
            (ended.code, messages(&ended.events)),
            (Some(0), vec!["welcome".to_owned(), "now".to_owned()])
        );
        assert_eq!(machine.cache()["Extra"].get("removed"), None);
        machine.tell(&format!("unset {ACTION}"));
        machine.tell("events []");

        let runner = machine.booted(OBEDIENT);
        runner.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!((runner.ended().code, runner.ended().starts()), (Some(0), 1));
        assert_eq!(machine.taskcluster.count("registerWorker"), 1);
        assert_eq!(machine.taskcluster.count("removeWorker"), 0);
        assert_eq!(machine.taskcluster.worker_state(&machine.key), Some(WorkerState::Running));
    });
}

/// The events that a machine acknowledges for these resources after its worker has ended.
fn acknowledged(machines: &[&str], wanted: bool) -> Vec<String> {
    let machine = Machine::new(AZURE);
    let scene = machine.scene().worker(OBEDIENT).set("provider.acknowledgeEvents", wanted);
    let runner = scene.start();
    runner.wait_for_log("worker says hello");
    machine.events(&[("e-1", "Preempt", machines, 60)]);
    assert_taken_away(&machine, &runner.ended());
    let requests = machine.metadata.requests();
    let posted = requests.iter().filter(|request| request.method == "POST");
    posted.map(|request| request.body.clone()).collect()
}

#[test]
fn an_event_is_acknowledged_where_that_is_wanted_and_no_other_machine_has_a_part_in_it() {
    let ours = AZURE.worker;
    let cases: [(&[&str], bool, &[&str]); 3] = [
        (&[ours], true, &[r#"{"StartRequests":[{"EventId":"e-1"}]}"#]),
        (&[ours, "another"], true, &[]),
        (&[ours], false, &[]),
    ];
    at_once(cases, |(machines, wanted, posted)| assert_eq!(acknowledged(machines, wanted), posted));
}
