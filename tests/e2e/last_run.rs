//! `start-worker status` when no start-worker is there to be asked: how the newest run ended, and when.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::scene::ACCESS_TOKEN;
use crate::harness::{Scene, eventually, is_root};

const PATIENT: [&str; 4] = ["on now: exit 0", "hello all", "print ready", "wait"];

fn scene() -> Scene {
    let scene = Scene::new().worker(PATIENT);
    let socket = scene.path("status.sock");
    scene.set("status.socket", socket.to_str().unwrap())
}

/// Exit code, stdout and stderr of `status`, asked beside the state directory of a scene.
fn status(folder: &Path, options: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
    command.arg("status").args(options).arg("--socket").arg(folder.join("status.sock"));
    let output = command.env("STATE_DIRECTORY", folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn json(folder: &Path) -> Value {
    let (code, stdout, _) = status(folder, &["--json"]);
    assert_eq!(code, Some(1), "there is nobody: {stdout}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn the_status_says_when_and_how_the_last_run_ended_and_asks_the_next_one_while_it_runs() {
    let runner = scene().start();
    let folder = runner.path("");
    runner.wait_for_log("ready");
    assert_eq!(status(&folder, &[]).0, Some(0), "it runs, and answers itself");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));

    let (code, stdout, stderr) = status(&folder, &[]);
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("error: no start-worker listens at "), "{stderr}");
    for line in ["last run         ended ", " ago) with exit code 0\n", "  outcome        stopped as asked\n"]
    {
        assert!(stdout.contains(line), "{line} is missing: {stdout}");
    }
    let last = &json(&folder)["lastRun"];
    assert_eq!((&last["exitCode"], &last["pid"]), (&0.into(), &runner.pid().into()));
    let [started, ended] =
        ["started", "ended"].map(|key| last[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap());
    assert!(started <= ended && ended <= jiff::Timestamp::now(), "{last}");
}

#[test]
fn a_run_that_fails_leaves_its_cause_and_the_last_lines_of_the_log() {
    let scene = scene().worker(["hello all", "exit 64"]);
    let runner = scene.start();
    assert_eq!(runner.ended().code, Some(1));
    let (_, stdout, _) = status(&runner.path(""), &[]);
    for part in ["with exit code 1\n", "  outcome        gave up on the worker\n", " error: ", "exit code 64"]
    {
        assert!(stdout.contains(part), "{part} is missing: {stdout}");
    }
    assert!(!stdout.contains(ACCESS_TOKEN));
}

#[test]
fn a_runner_configuration_that_cannot_be_used_is_the_outcome_of_the_last_run() {
    let runner = scene().set("startTimeout", 900).set("getSecrets", "perhaps").start();
    assert_eq!(runner.ended().code, Some(64));
    let (_, stdout, _) = status(&runner.path(""), &[]);
    assert!(stdout.contains("with exit code 64\n"), "{stdout}");
    let outcome = stdout.lines().find(|line| line.starts_with("  outcome")).unwrap();
    assert!(outcome.contains("startTimeout: expected a duration"), "{outcome}");
    assert!(outcome.contains("; error: ") && outcome.contains("getSecrets"), "{outcome}");
}

#[test]
fn a_run_that_was_killed_is_not_shown_with_the_end_of_the_run_before_it() {
    let before = scene().start();
    before.wait_for_log("ready");
    before.signal(Signal::SIGTERM);
    assert_eq!(before.ended().code, Some(0));
    let scene = scene();
    let folder = scene.path("");
    std::fs::copy(before.path("last-run.json"), folder.join("last-run.json")).unwrap();
    let runner = scene.start();
    let begun = format!("\"pid\":{},", runner.pid());
    let recorded = || std::fs::read_to_string(folder.join("last-run.json")).unwrap();
    assert!(eventually(|| recorded().contains(&begun).then_some(())).is_some(), "{}", recorded());
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGKILL);
    runner.ended();
    let (_, stdout, _) = status(&folder, &[]);
    assert!(stdout.contains("and left no record of its end: it was killed"), "{stdout}");
    assert!(!stdout.contains("outcome") && !stdout.contains("exit code"), "{stdout}");
}

#[test]
fn without_a_state_directory_nothing_is_recorded_and_nothing_is_shown() {
    let scene = scene().env("STATE_DIRECTORY", "");
    let runner = scene.start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    assert!(!runner.path("last-run.json").exists());
    let (code, stdout, stderr) = status(&runner.path(""), &[]);
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(1), "", 1), "{stderr}");
}

#[test]
fn what_a_stranger_could_have_written_is_not_shown() {
    let runner = scene().start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    runner.ended();
    let folder = runner.path("");
    let record = folder.join("last-run.json");
    let text = std::fs::read_to_string(&record).unwrap();
    assert_eq!(record.metadata().unwrap().permissions().mode() & 0o7777, 0o600);

    // A terminal obeys none of it.
    std::fs::write(&record, text.replace("stopped as asked", "\\u001b[2Jhello\\nstate running")).unwrap();
    let (_, stdout, _) = status(&folder, &[]);
    assert!(stdout.contains("\\u{1b}[2Jhello; state running\n"), "{stdout}");
    let (_, stdout, _) = status(&folder, &["--json"]);
    assert!(!stdout.contains('\u{1b}') && stdout.lines().count() == 1, "{stdout}");

    std::fs::set_permissions(&record, PermissionsExt::from_mode(0o666)).unwrap();
    let not_shown = |folder: &Path| {
        for options in [&[][..], &["--json"]] {
            let (code, stdout, stderr) = status(folder, options);
            assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
            assert!(stderr.starts_with("warning: the last run is not shown: "), "{stderr}");
            assert!(stderr.contains("error: no start-worker listens at "), "{stderr}");
        }
    };
    not_shown(&folder);
    if is_root() {
        std::fs::set_permissions(&record, PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&record, Some(12_345), None).unwrap();
        not_shown(&folder);
    }
    std::fs::remove_file(&record).unwrap();
    nix::unistd::mkfifo(&record, nix::sys::stat::Mode::S_IRUSR).unwrap();
    not_shown(&folder);
}
