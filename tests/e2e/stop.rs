//! Requests to stop a worker, and workers that do not obey.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Runner, Scene, TOLERANCE, messages, named, signals, wait_until};

/// Hears everything and obeys nothing.
const STUBBORN: [&str; 6] =
    ["on finish:", "on now:", "on SIGTERM:", "hello graceful-termination log", "print ready", "wait"];

fn ready(scene: Scene) -> Runner {
    let runner = scene.start();
    runner.wait_for_log("ready");
    runner
}

#[test]
fn sigterm_and_sigint_ask_the_worker_to_stop_and_nothing_else() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let scene =
            Scene::new().worker(["on now: sleep 100ms ; exit 72", "hello all", "print ready", "wait"]);
        let runner = ready(scene);
        runner.signal(signal);
        let ended = runner.ended();
        // For this worker 72 is a crash; but it was told to stop.
        assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
        assert_eq!(messages(&ended.events), ["welcome", "now"]);
        assert_eq!(signals(&ended.events), [""; 0]);
        assert_eq!(named(&ended.events, "exit")[0].field("code"), 72);
    }
}

#[test]
fn a_worker_that_ignores_everything_is_signalled_and_killed_in_time() {
    let scene = Scene::new().worker(STUBBORN).set("supervision.stopTimeout", "300ms");
    let runner = ready(scene.set("supervision.killTimeout", "200ms"));
    let stopped = runner.signal(Signal::SIGTERM);
    let took = runner.end() - stopped;
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!(
        (messages(&ended.events), signals(&ended.events)),
        (vec!["welcome".into(), "now".into()], vec!["SIGTERM"])
    );
    let told = named(&ended.events, "message")[1];
    let asked_for = named(&ended.events, "signal")[0].after(told);
    assert!(asked_for + TOLERANCE >= Duration::from_millis(300), "{asked_for:?}");
    assert!((Duration::from_millis(500)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert!(named(&ended.events, "exit").is_empty());
    runner.assert_nothing_left();
}

#[test]
fn a_worker_without_the_capability_gets_sigterm_at_once() {
    let scene =
        Scene::new().worker(["on SIGTERM: exit 5", "await welcome", "hello log", "log ready", "wait"]);
    let runner = ready(scene.set("supervision.stopTimeout", "1h"));
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, signals(&ended.events)), (Some(0), vec!["SIGTERM"]));
    assert_eq!(messages(&ended.events), ["welcome"]);
}

#[test]
fn a_worker_without_the_capability_that_ignores_sigterm_is_killed() {
    let scene = Scene::new().worker(["on SIGTERM:", "hello", "print ready", "wait"]);
    let runner = ready(scene.set("supervision.stopTimeout", "300ms"));
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    runner.assert_nothing_left();
}

#[test]
fn a_second_sigterm_a_second_later_kills_at_once() {
    let mut script = vec!["spawn session ignore-term", "spawn daemon ignore-term"];
    script.extend(STUBBORN);
    let scene = Scene::new().worker(script).set("supervision.stopTimeout", "1h");
    let runner = ready(scene.set("supervision.killTimeout", "1h"));
    let first = runner.signal(Signal::SIGTERM);
    runner.wait_for_graceful_termination(false);
    wait_until(first + Duration::from_millis(1100));
    let second = runner.signal(Signal::SIGTERM);
    let took = runner.end() - second;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let ended = runner.ended();
    assert_eq!((ended.code, signals(&ended.events)), (Some(0), vec![]), "{}", ended.log);
    runner.assert_nothing_left();
}

#[test]
fn two_signals_within_a_second_count_as_one() {
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let scene = Scene::new().worker(["on now: sleep 300ms ; exit 0", "hello all", "print ready", "wait"]);
        let runner = ready(scene);
        let first = runner.signal(Signal::SIGTERM);
        runner.wait_for_graceful_termination(false);
        if first.elapsed() > Duration::from_millis(900) {
            eprintln!("skipped: the machine is too busy to send two signals within a second");
            continue;
        }
        runner.signal(second);
        let ended = runner.ended();
        assert_eq!((ended.code, messages(&ended.events).len()), (Some(0), 2));
        assert_eq!(named(&ended.events, "exit").len(), 1, "it was killed\n{}", ended.log);
    }
}

#[test]
fn sigusr1_drains_without_any_signal_to_the_worker() {
    let scene = Scene::new().worker(["on finish: sleep 300ms ; exit 0", "hello all", "print ready", "wait"]);
    let runner = ready(scene.set("supervision.stopTimeout", "50ms"));
    runner.signal(Signal::SIGUSR1);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1));
    assert_eq!(
        (messages(&ended.events), signals(&ended.events)),
        (vec!["welcome".into(), "finish".into()], vec![])
    );
    assert_eq!(named(&ended.events, "exit").len(), 1);
}

#[test]
fn a_stop_strengthens_a_drain_and_a_drain_never_weakens_a_stop() {
    let scene = Scene::new().worker([
        "on finish:",
        "on now: sleep 200ms ; exit 0",
        "hello all",
        "print ready",
        "wait",
    ]);
    let runner = ready(scene);
    runner.signal(Signal::SIGUSR1);
    runner.signal(Signal::SIGUSR1);
    runner.wait_for_graceful_termination(true);
    runner.signal(Signal::SIGTERM);
    runner.wait_for_graceful_termination(false);
    runner.signal(Signal::SIGUSR1);
    let ended = runner.ended();
    assert_eq!(
        (ended.code, messages(&ended.events)),
        (Some(0), vec!["welcome".into(), "finish".into(), "now".into()])
    );
}

#[test]
fn a_drain_that_takes_too_long_becomes_a_stop() {
    let scene = Scene::new().worker(["on finish:", "on now: exit 0", "hello all", "print ready", "wait"]);
    let runner = ready(scene.set("supervision.drainTimeout", "300ms"));
    runner.signal(Signal::SIGUSR1);
    let ended = runner.ended();
    assert_eq!(
        (ended.code, messages(&ended.events)),
        (Some(0), vec!["welcome".into(), "finish".into(), "now".into()])
    );
    let told = named(&ended.events, "message");
    assert!(told[2].after(told[1]) + TOLERANCE >= Duration::from_millis(300));
}

#[test]
fn a_drain_of_a_worker_without_the_capability_waits_for_it() {
    let scene = Scene::new();
    let end = scene.path("end");
    let script =
        ["await welcome", "hello log", "log ready", &format!("wait-file {}", end.display()), "exit 0"];
    let runner = ready(scene.worker(script).set("supervision.stopTimeout", "50ms"));
    runner.signal(Signal::SIGUSR1);
    runner.wait_for_log("cannot be asked to finish");
    std::fs::write(end, "").unwrap();
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1));
    assert_eq!((messages(&ended.events), signals(&ended.events)), (vec!["welcome".into()], vec![]));
}

#[test]
fn a_signal_to_the_whole_process_group_is_a_stop() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let runner = ready(Scene::new().worker(["on now: exit 0", "hello all", "print ready", "wait"]));
        runner.signal_group(signal);
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 1));
        assert_eq!(
            (messages(&ended.events), signals(&ended.events)),
            (vec!["welcome".into(), "now".into()], vec![])
        );
    }
}

#[test]
fn a_worker_that_dies_of_the_units_signal_before_the_runner_gets_its_own_has_not_crashed() {
    // As with KillMode=control-group, in the order that is worse.
    let runner = ready(Scene::new().worker(["hello all", "print ready", "wait"]));
    let worker = runner.wait_for_start(1).pid();
    kill(Pid::from_raw(worker), Signal::SIGTERM).unwrap();
    runner.wait_for_event("exit");
    runner.wait_for("the worker's end", |_| runner.children().is_empty().then_some(()));
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
}

#[test]
fn a_stop_while_a_crashed_worker_waits_for_its_restart_ends_at_once() {
    let scene = Scene::new().worker(["exit 7"]);
    let scene = scene.set("supervision.backoff", serde_json::json!({"initial": "1h", "max": "1h"}));
    let runner = scene.start();
    runner.wait_for_log("started again");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1));
}

#[test]
fn sighup_ends_nothing() {
    let runner = ready(Scene::new().worker(["on now: exit 0", "hello all", "print ready", "wait"]));
    runner.signal(Signal::SIGHUP);
    runner.wait_for_log("SIGHUP");
    assert!(runner.is_running());
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, messages(&ended.events)), (Some(0), vec!["welcome".into(), "now".into()]));
}

#[test]
fn a_runner_that_is_killed_takes_its_worker_along() {
    let runner = ready(Scene::new().worker(["hello all", "print ready", "wait"]));
    runner.signal(Signal::SIGKILL);
    assert_eq!(runner.ended().code, None);
    let gone = crate::harness::eventually(|| runner.living().is_empty().then_some(Instant::now()));
    assert!(gone.is_some(), "{runner}");
    assert_eq!(signals(&runner.events()), ["SIGTERM"]);
}
