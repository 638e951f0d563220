//! A task that has used up every process and thread that the service may have.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;
use test_support::pids_cgroup::PidsCgroup;

use crate::harness::{Runner, eventually};
use crate::registration::site::Site;

/// For a runner, its worker, and a bomb of about thirty.
const MOST: u64 = 50;

/// Threads that are made when they are needed are gone again by then: tokio's live for 10 s without work.
const RESTED: &str = "sleep 11s";

/// `None`: not on this machine.
fn little_room() -> Option<PidsCgroup> {
    match PidsCgroup::new(MOST) {
        Ok(made) => Some(made),
        Err(reason) => {
            // Also on machines for tests: containers seldom have the controller.
            eprintln!("skipped: {reason}");
            None
        }
    }
}

fn status(runner: &Runner) -> Option<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
    let output =
        command.args(["status", "--json", "--socket"]).arg(runner.path("status.sock")).output().unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

#[test]
fn while_a_fork_bomb_holds_every_process_credentials_are_renewed_status_answers_and_a_stop_ends_it() {
    let Some(room) = little_room() else { return };
    let site = Site::with_one_renewal();
    let scene = site.cached_scene().in_cgroup(room.path());
    let socket = scene.path("status.sock");
    let scene = scene
        .set("status.socket", socket.to_str().unwrap())
        .set("supervision.stopTimeout", "500ms")
        .set("supervision.killTimeout", "10s")
        .worker(["hello all", RESTED, "spawn bomb", "print ready", "wait"]);
    let runner = scene.start();
    runner.wait_for_log("ready");
    eventually(|| (room.refusals() > 0).then_some(())).unwrap_or_else(|| panic!("it is not full\n{runner}"));
    site.let_renew(&runner);
    runner.wait_for("new credentials", |events| {
        events.iter().find(|event| event.text("type") == "new-credentials").cloned()
    });
    eventually(|| status(&runner)).unwrap_or_else(|| panic!("no status\n{runner}"));
    let before = room.refusals();
    eventually(|| (room.refusals() > before).then_some(())).expect("it is full no longer");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    for wrong in ["panicked", "a part of start-worker has failed", "cannot be killed"] {
        assert!(!ended.log.contains(wrong), "{wrong}\n{}", ended.log);
    }
    runner.assert_nothing_left();
}
