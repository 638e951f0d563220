//! Cause of a worker's end × exit: the effect on a cloud's machine, checked by the requests to Taskcluster and the host
//! commands.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use test_support::fake_taskcluster::{Fault, Times};

use crate::clouds::machine::{ACTION, EC2, Machine, OBEDIENT, at_once};
use crate::harness::{Runner, Scene, messages, named};

/// The exits of generic-worker: done, idle, reboot, interrupted, bad configuration, crashes.
const EXITS: [&str; 9] =
    ["exit 0", "exit 72", "exit 68", "exit 67", "exit 71", "die SIGTERM", "exit 64", "exit 1", "die SIGKILL"];

const REBOOT: &str = "exit 67";

const REBALANCE: &str = "/latest/meta-data/events/recommendations/rebalance";

/// The cause of a worker's end.
#[derive(Clone, Copy, PartialEq)]
enum Cause {
    /// The worker exits by itself.
    None,
    Stop,
    Drain,
    Terminated,
    Hibernates,
    Rebalance,
    Expired,
    NewCredentials,
}

/// The effect on its machine.
#[derive(Debug, PartialEq)]
struct Fate {
    code: i32,
    /// removeWorker was called, once.
    removed: bool,
    /// reportWorkerError was called, once.
    reported: bool,
}

const STAYS: Fate = Fate { code: 0, removed: false, reported: false };
const REMOVED: Fate = Fate { code: 0, removed: true, reported: false };
const FAILED: Fate = Fate { code: 1, removed: true, reported: true };
const NEEDS_REBOOT: Fate = Fate { code: 70, removed: false, reported: false };

/// The table.
fn fate(cause: Cause, exit: &str) -> Fate {
    match cause {
        Cause::Stop | Cause::Drain | Cause::Hibernates => STAYS,
        Cause::Expired => FAILED,
        Cause::NewCredentials | Cause::None if exit == REBOOT => NEEDS_REBOOT,
        Cause::Terminated | Cause::Rebalance | Cause::NewCredentials => REMOVED,
        Cause::None => match exit {
            "exit 0" | "exit 72" | "exit 68" => REMOVED,
            _ => FAILED,
        },
    }
}

/// Makes preparations before the machine boots.
fn prepare(cause: Cause, machine: &Machine) {
    match cause {
        Cause::Rebalance => {
            // Asked for every 30 s, and first after these: by then the worker is there.
            for path in ["spot/", "events/maintenance/"] {
                machine.tell(&format!("fault /latest/meta-data/{path} delay 1s"));
            }
            machine.tell(&format!(r#"set {REBALANCE} {{"noticeTime": "2026-11-24T18:02:00Z"}}"#));
        }
        Cause::Expired => {
            machine.taskcluster.set_credentials_life(Duration::from_secs(6));
            machine.taskcluster.fail("reregisterWorker", Times::UntilCleared, Fault::bad_gateway());
        }
        Cause::NewCredentials => machine.taskcluster.set_credentials_life(Duration::from_secs(31)),
        Cause::None | Cause::Stop | Cause::Drain | Cause::Terminated | Cause::Hibernates => {}
    }
}

fn script(cause: Cause, exit: &str) -> Vec<String> {
    let told = |trigger: &str| format!("on {trigger}: {exit}");
    let hello = if cause == Cause::NewCredentials { "hello graceful-termination" } else { "hello all" };
    let last = if cause == Cause::None { exit } else { "wait" };
    vec![told("now"), told("finish"), hello.to_owned(), last.to_owned()]
}

fn scene(machine: &Machine) -> Scene {
    machine
        .generic_worker()
        .set("provider.onRebalance", "drain")
        .set("supervision.maxRestarts", 0)
        .set("supervision.onReboot", "wait")
        .set("supervision.rebootTimeout", "200ms")
        .set("worker.restartInPlace", false)
}

fn cause_it(cause: Cause, machine: &Machine, runner: &Runner) {
    let far_away = Duration::from_secs(3600);
    runner.wait_for_event("start");
    match cause {
        Cause::Stop => drop(runner.signal(Signal::SIGTERM)),
        Cause::Drain => drop(runner.signal(Signal::SIGUSR1)),
        Cause::Terminated => machine.spot("terminate", far_away),
        Cause::Hibernates => machine.spot("hibernate", far_away),
        Cause::None | Cause::Rebalance | Cause::Expired | Cause::NewCredentials => {}
    }
}

/// The messages that the worker receives, in one word each.
fn told(cause: Cause) -> &'static [&'static str] {
    match cause {
        Cause::None => &[],
        Cause::Stop | Cause::Terminated | Cause::Hibernates | Cause::Expired => &["now"],
        Cause::Drain | Cause::Rebalance | Cause::NewCredentials => &["finish"],
    }
}

fn assert_row(cause: Cause, exits: &[&str]) {
    at_once(exits, |exit| {
        let machine = Machine::new(EC2);
        prepare(cause, &machine);
        let runner = scene(&machine).worker(script(cause, exit)).start();
        cause_it(cause, &machine, &runner);
        let ended = runner.ended();
        let (removed, reported) =
            (machine.taskcluster.count("removeWorker"), machine.taskcluster.count("reportWorkerError"));
        assert!(removed <= 1 && reported <= 1, "{exit}: {removed}, {reported}\n{}", ended.log);
        let found = Fate { code: ended.code.unwrap(), removed: removed == 1, reported: reported == 1 };
        assert_eq!(found, fate(cause, exit), "{exit}\n{}", ended.log);
        assert_eq!(
            (named(&ended.events, "start").len(), ended.host_commands),
            (1, vec![]),
            "{exit}\n{}",
            ended.log
        );
        let mut heard = messages(&ended.events);
        heard.retain(|message| message != "welcome");
        assert_eq!(heard, told(cause), "{exit}\n{}", ended.log);
        assert_eq!(
            machine.cache()["Extra"].get("leaving").is_some_and(Value::is_object),
            found.removed,
            "{exit}"
        );
        if cause != Cause::Expired {
            assert_second_boot(&machine, found.removed);
        }
    });
}

/// A removed machine starts no worker; another goes on as it was, also after a drain by SIGUSR1.
fn assert_second_boot(machine: &Machine, removed: bool) {
    machine.tell("clear");
    machine.tell(&format!("unset {ACTION}"));
    let runner = scene(machine).worker(OBEDIENT).start();
    let awaited = if removed { "this worker was removed from worker-manager" } else { "worker says hello" };
    runner.wait_for_log(awaited);
    if !removed {
        runner.signal(Signal::SIGTERM);
    }
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), usize::from(!removed)), "{}", ended.log);
    assert_eq!(machine.taskcluster.count("registerWorker"), 1);
    assert_eq!(machine.taskcluster.count("removeWorker"), usize::from(removed));
}

#[test]
fn a_worker_that_ends_by_itself() {
    assert_row(Cause::None, &EXITS);
}

#[test]
fn an_operators_stop() {
    assert_row(Cause::Stop, &EXITS);
}

#[test]
fn an_operators_drain() {
    assert_row(Cause::Drain, &EXITS);
}

#[test]
fn an_interruption_with_and_without_an_end() {
    at_once([Cause::Terminated, Cause::Hibernates], |cause| assert_row(cause, &EXITS));
}

#[test]
fn a_rebalance() {
    assert_row(Cause::Rebalance, &EXITS);
}

#[test]
fn credentials_that_could_not_be_renewed() {
    assert_row(Cause::Expired, &EXITS);
}

#[test]
fn a_worker_that_cannot_be_told_its_new_credentials() {
    assert_row(Cause::NewCredentials, &EXITS);
}
