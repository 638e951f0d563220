//! Nothing that a worker has started outlives it.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Scene, named};

const PLACES: [&str; 5] = ["child", "group", "session", "daemon", "zombie"];
const MANNERS: [&str; 4] = ["", "ignore-term", "with-zombie", "ignore-term with-zombie"];

#[test]
fn wherever_a_process_hides_it_does_not_survive_the_workers_end() {
    let run = |place: &str, manners: &str| {
        let script = [format!("spawn {place} {manners}"), "exit 0".to_owned()];
        Scene::new().worker(script).set("supervision.killTimeout", "200ms").start()
    };
    for place in PLACES {
        for (manners, runner) in MANNERS.map(|manners| (manners, run(place, manners))) {
            let ended = runner.ended();
            assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{place} {manners}\n{}", ended.log);
            runner.assert_nothing_left();
        }
    }
}

#[test]
fn however_the_worker_ends_nothing_is_left() {
    let spawn =
        ["spawn child", "spawn group ignore-term", "spawn session", "spawn daemon ignore-term with-zombie"];
    for end in ["exit 0", "exit 7", "die SIGSEGV", "die SIGKILL", "die SIGTERM"] {
        let mut script = spawn.to_vec();
        script.push(end);
        let scene = Scene::new().worker(script).set("supervision.killTimeout", "200ms");
        let runner = scene.set("supervision.restart", "never").start();
        let ended = runner.ended();
        assert_eq!(ended.code, Some(i32::from(end != "exit 0")), "{end}\n{}", ended.log);
        runner.assert_nothing_left();
    }
}

#[test]
fn what_is_left_gets_sigterm_first_and_sigkill_only_when_it_does_not_help() {
    let polite = Scene::new().worker(["spawn session", "exit 0"]).set("supervision.killTimeout", "1h");
    let runner = polite.start();
    assert_eq!(runner.ended().code, Some(0));
    let rude = Scene::new().worker(["spawn session ignore-term", "exit 0"]);
    let runner = rude.set("supervision.killTimeout", "600ms").start();
    let left = runner.wait_for_event("exit");
    assert_eq!(runner.ended().code, Some(0));
    runner.assert_nothing_left();
    assert!(runner.ended().after >= Duration::from_millis(500), "{left:?}");
}

#[test]
fn a_process_that_holds_stdout_keeps_nobody_waiting() {
    for flags in ["hold-stdout", "hold-stderr", "hold-stdout hold-stderr"] {
        for ignore in ["", "ignore-term"] {
            let script = [&format!("spawn session {flags} {ignore}"), "print last words", "exit 0"];
            let runner = Scene::new().worker(script).set("supervision.killTimeout", "200ms").start();
            let ended = runner.ended();
            assert_eq!(ended.code, Some(0));
            assert!(ended.log.contains("last words"), "{}", ended.log);
            assert!(ended.after < Duration::from_secs(10), "{flags}: {:?}", ended.after);
            runner.assert_nothing_left();
        }
    }
}

#[test]
fn before_a_crashed_worker_is_started_again_what_it_left_is_gone() {
    let scene = Scene::new();
    let end = format!("wait-file {}", scene.path("end").display());
    let spawn = "spawn session ; spawn daemon ignore-term with-zombie ; spawn group hold-stdout ; exit 7";
    let script = [&format!("start 1: {spawn}"), "print second", &end, "exit 0"];
    let runner = scene.worker(script).set("supervision.killTimeout", "200ms").start();
    let second = runner.wait_for_start(2).pid();
    let living: Vec<i32> = runner.living().iter().map(|process| process.pid).collect();
    assert_eq!(living, [second]);
    // Nor are there dead ones that nobody has asked after.
    let reaped = || (runner.children().iter().all(|child| child.pid == second)).then_some(());
    runner.wait_for("an end of all zombies", |_| reaped());
    std::fs::write(runner.path("end"), "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn orphans_are_reaped_while_the_worker_runs() {
    let scene = Scene::new();
    let end = format!("wait-file {}", scene.path("end").display());
    let runner = scene.worker(["spawn daemon", "spawn daemon", "note spawned", &end, "exit 0"]).start();
    runner.wait_for_note("spawned");
    let worker = runner.wait_for_start(1).pid();
    for orphan in named(&runner.events(), "descendant") {
        kill(Pid::from_raw(orphan.pid()), Signal::SIGKILL).unwrap();
    }
    let reaped = || (runner.children().iter().all(|child| child.pid == worker)).then_some(());
    runner.wait_for("an end of all zombies", |_| reaped());
    std::fs::write(runner.path("end"), "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn a_stop_ends_descendants_that_ignore_everything() {
    let script = [
        "spawn session ignore-term",
        "spawn daemon ignore-term",
        "on now: exit 0",
        "hello all",
        "print ready",
        "wait",
    ];
    let runner = Scene::new().worker(script).set("supervision.killTimeout", "200ms").start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    runner.assert_nothing_left();
}

#[test]
fn with_kill_descendants_false_they_are_left_alone() {
    let scene = Scene::new().worker(["spawn session", "exit 0"]).set("supervision.killDescendants", false);
    let runner = scene.start();
    assert_eq!(runner.ended().code, Some(0));
    assert_eq!(runner.living().len(), 1);
}
