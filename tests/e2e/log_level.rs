//! `start-worker log-level`: more log from a service that goes on.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Runner, Scene};

/// Each file makes an event, whose decision is a line of debugging.
fn runner() -> Runner {
    let scene = Scene::generic_worker();
    let [first, second, third] = ["first", "second", "third"].map(|name| scene.path(name));
    let socket = scene.path("status.sock");
    let scene = scene.set("status.socket", socket.to_str().unwrap()).worker([
        "on now: exit 0".to_owned(),
        "hello all".to_owned(),
        "print ready".to_owned(),
        format!("wait-file {}", first.display()),
        "metrics taskStart".to_owned(),
        format!("wait-file {}", second.display()),
        "metrics taskFinish".to_owned(),
        format!("wait-file {}", third.display()),
        "metrics taskStart".to_owned(),
        "print done".to_owned(),
        "wait".to_owned(),
    ]);
    let runner = scene.start();
    runner.wait_for_log("ready");
    runner
}

/// Exit code, stdout and stderr.
fn ask(runner: &Runner, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
    command.arg("log-level").args(arguments).arg("--socket").arg(runner.path("status.sock"));
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn make(runner: &Runner, name: &str) {
    std::fs::write(runner.path(name), "").unwrap();
}

#[test]
fn a_service_logs_more_for_a_while_and_then_as_before_by_itself() {
    let runner = runner();
    assert!(!runner.log().contains("DEBUG"), "{runner}");
    let (code, stdout, stderr) = ask(&runner, &["debug", "--for", "2s"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.starts_with("log level: debug, until 2"), "{stdout}");
    make(&runner, "first");
    runner.wait_for_log("DEBUG");
    runner.wait_for_log("logging at the configured level again");
    let before = runner.log().len();
    make(&runner, "second");
    make(&runner, "third");
    runner.wait_for_log("done");
    runner.signal(Signal::SIGTERM);
    let log = runner.ended().log;
    assert!(!log[before..].contains("DEBUG"), "{log}");
    assert!(log[before..].contains("INFO  start-worker ends"), "{log}");
}

#[test]
fn the_configured_level_is_back_at_once_when_that_is_asked_for_and_a_later_request_counts() {
    let runner = runner();
    assert_eq!(ask(&runner, &["debug", "--for", "1s"]).0, Some(0));
    // What falls back is the first request, and it is not the last one.
    assert_eq!(ask(&runner, &["start_worker::supervisor=debug,warn", "--for", "1h"]).0, Some(0));
    make(&runner, "first");
    runner.wait_for_log("DEBUG");
    let (code, stdout, _) = ask(&runner, &["configured"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "log level: configured\n"));
    runner.wait_for_log("logging at the configured level again");
    let before = runner.log().len();
    make(&runner, "second");
    make(&runner, "third");
    runner.wait_for_log("done");
    assert!(!runner.log()[before..].contains("DEBUG"), "{runner}");
}

#[test]
fn a_level_or_a_time_that_makes_no_sense_changes_nothing() {
    let runner = runner();
    for (arguments, said) in [
        (&["verbose"][..], "is not a level"),
        (&["hyper=debug"], "is not a module of start-worker"),
        (&["debug", "--for", "soon"], "--for"),
    ] {
        let (code, _, stderr) = ask(&runner, arguments);
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
    let (code, _, stderr) = ask(&runner, &["debug", "--for", "2days"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("a second at least and a day at most"), "{stderr}");
    // Without the command's own checks.
    for request in [
        r#"{"request":"log-level","level":"verbose","seconds":5}"#,
        r#"{"request":"log-level","level":"debug","seconds":0}"#,
        r#"{"request":"log-level","level":"debug","seconds":1e9}"#,
        r#"{"request":"log-level","level":"debug"}"#,
    ] {
        let answer = crate::e2e::status::Client::connect(&runner.path("status.sock"))
            .ask(format!("{request}\n").as_bytes());
        assert!(matches!(answer["error"], Value::String(_)), "{request}: {answer}");
    }
    make(&runner, "first");
    make(&runner, "second");
    make(&runner, "third");
    runner.wait_for_log("done");
    assert!(!runner.log().contains("DEBUG"), "{runner}");
}
