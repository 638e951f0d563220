//! A worker that is stuck in the kernel, in state D: SIGKILL does not end it, and yet start-worker ends.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::hung_disk::{HungDisk, Wait, somebody_waits, waits_for_disk, with_hung_disk};
use crate::support::{Runner, Scene, eventually, is_root, wait_until};

/// A worker whose main thread waits for a disk that never answers.
fn stuck(scene: Scene, disk: &HungDisk) -> Runner {
    let wait = format!("wait-file {}", disk.path("x").display());
    let runner = scene
        .worker(["hello all", "print ready", &wait])
        .set("supervision.stopTimeout", "300ms")
        .set("supervision.killTimeout", "300ms")
        .start();
    runner.wait_for_log("ready");
    let waits = eventually(|| runner.children().iter().any(|child| waits_for_disk(child.pid)).then_some(()));
    assert!(waits.is_some(), "nobody waits for the disk: {:?}\n{runner}", runner.children());
    runner
}

#[track_caller]
fn assert_given_up(runner: &Runner) {
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 1), "{}", ended.log);
    let line = ended.log.lines().find(|line| line.contains("worker cannot be killed")).unwrap_or_default();
    assert!(line.contains("state=D waits_in=request_wait_answer"), "{}", ended.log);
    assert_eq!(ended.log.matches(" ERROR ").count(), 2, "one for the worker, one for the end\n{}", ended.log);
    assert!(ended.log.contains("start-worker ends: the worker cannot be killed"), "{}", ended.log);
}

#[test]
fn a_stop_ends_although_the_worker_cannot_be_killed() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    let scene = Scene::new();
    let _runner = with_hung_disk(Wait::Endless, |disk| {
        let runner = stuck(scene, disk);
        runner.signal(Signal::SIGTERM);
        assert_given_up(&runner);
        runner
    });
}

#[test]
fn a_second_stop_ends_although_the_worker_cannot_be_killed() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    let scene = Scene::new().set("supervision.stopTimeout", "1h");
    let _runner = with_hung_disk(Wait::Endless, |disk| {
        let runner = stuck(scene, disk);
        let first = runner.signal(Signal::SIGTERM);
        wait_until(first + Duration::from_millis(1100));
        if runner.is_running() {
            runner.signal(Signal::SIGTERM);
        }
        assert_given_up(&runner);
        runner
    });
}

#[test]
fn a_stop_ends_a_start_whose_configuration_is_on_a_disk_that_does_not_answer() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
        let scene = Scene::new();
        with_hung_disk(Wait::Killable, |disk| {
            let runner = scene.start_with([disk.path("runner.yml").as_os_str()]);
            let hangs = eventually(|| somebody_waits(&runner).then_some(()));
            assert!(hangs.is_some(), "{runner}");
            // A reload is none.
            runner.signal(Signal::SIGHUP);
            runner.signal(signal);
            let ended = runner.ended();
            assert_eq!(ended.code, Some(0), "{}", ended.log);
            assert!(ended.log.contains("stopped before the runner configuration"), "{}", ended.log);
        });
    }
}
