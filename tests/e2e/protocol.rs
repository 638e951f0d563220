//! A worker that uses the protocol wrongly, late, twice or not at all harms only itself.

use nix::sys::signal::Signal;

use crate::harness::{Scene, eventually, messages, named, signals};

/// Every line here begins a message and is wrong in one way.
const MALFORMED: &[&str] = &[
    r#"send {"type":"hello","capabilities":"x"}"#,
    r#"send {"type":"hello","capabilities":null}"#,
    r#"send {"type":"hello","capabilities":[1,null,{}]}"#,
    r#"send {"type":"hello"}"#,
    r#"send {"type":"log","body":null}"#,
    r#"send {"type":"log","body":"text"}"#,
    r#"send {"type":"log","body":[]}"#,
    r#"send {"type":"log"}"#,
    r#"send {"type":"log","body":{"textPayload":null}}"#,
    r#"send {"type":"log","body":{}}"#,
    r#"send {"type":"error-report","kind":null,"title":"t","description":"d","extra":{}}"#,
    r#"send {"type":"error-report","kind":"k","title":[],"description":"d"}"#,
    r#"send {"type":"error-report","kind":"k","title":"t","description":"d","extra":"x"}"#,
    r#"send {"type":"error-report"}"#,
    r#"send {"type":"new-credentials","client-id":1}"#,
    r#"send {"type":"graceful-termination","finish-tasks":"yes"}"#,
    r#"send {"type":"autologin","user":{}}"#,
    r#"send {"type":"reboot","reason":7}"#,
    r#"send {"type":"welcome","capabilities":{}}"#,
    r#"send {"type":"nobody-knows-this"}"#,
    r#"send {"type":null}"#,
    r#"send {"type":1}"#,
    r"send {}",
    r"send {",
    r"send }",
    r"send []",
    r"send null",
    r#"send {"type":"log","body":{}"#,
    r#"send {"type":"log","type":"hello"}"#,
    r"send ",
    r"raw ~{\xff\xfe}\n",
    r"raw ~{\x00}\n",
];

#[test]
fn no_malformed_message_stops_the_runner_or_loses_the_next_line() {
    for hello in [false, true] {
        let mut script = vec!["on now: exit 0"];
        script.extend(hello.then_some("hello all"));
        script.extend(MALFORMED);
        // A malformed hello is none that counts.
        script.extend(["hello all", "print still here", "wait"]);
        let runner = Scene::new().worker(script).start();
        runner.wait_for_log("still here");
        runner.wait_for_log("worker says hello capabilities=autologin,error-report,graceful-termination");
        // A malformed autologin of a worker that has announced it is answered.
        let answer = hello.then_some("autologin-result");
        eventually(|| (messages(&runner.events()).len() == 1 + usize::from(hello)).then_some(()));
        runner.assert_small();
        runner.signal(Signal::SIGTERM);
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
        let expected: Vec<&str> = ["welcome"].into_iter().chain(answer).chain(["now"]).collect();
        assert_eq!(messages(&ended.events), expected, "{}", ended.log);
    }
}

#[test]
fn what_a_worker_says_in_a_message_cannot_forge_a_line_of_the_runner() {
    let forged = r"x\n2001-01-01T00:00:00.000Z INFO  forged\r\u001b[2K";
    let report = format!(
        r#"send {{"type": "error-report", "kind": "{forged}", "title": "{forged}", "description": "{forged}", "extra": {{"{forged}": "{forged}"}}}}"#
    );
    let record = format!(r#"send {{"type": "log", "body": {{"textPayload": "{forged}", "{forged}": 1}}}}"#);
    let malformed = format!(r#"send {{"type": "log", "body": "{forged}"}}"#);
    let reboot = format!(r#"send {{"type": "reboot", "reason": "{forged}"}}"#);
    let script = ["hello all", &report, &record, &malformed, &reboot, "print still here", "wait"];
    let runner = Scene::new().worker(script).set("supervision.stopTimeout", "100ms").start();
    runner.wait_for_log("still here");
    runner.wait_for_log("reports an error");
    runner.signal(Signal::SIGTERM);
    let log = runner.ended().log;
    assert!(log.matches("forged").count() > 6, "{log}");
    for line in log.lines() {
        assert!(!line.starts_with("2001"), "{log}");
        let workers = line.contains(" [worker] ");
        assert!(workers || !line.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn a_worker_without_a_hello_is_stopped_by_sigterm_at_once() {
    let scene = Scene::new().worker(["await welcome", "print up", "wait"]).set("worker.helloTimeout", "50ms");
    let runner = scene.set("supervision.stopTimeout", "1h").start();
    runner.wait_for_log("[worker] up");
    runner.wait_for_log("no hello");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0));
    assert_eq!(
        (messages(&ended.events), signals(&ended.events)),
        (vec!["welcome".to_owned()], vec!["SIGTERM"])
    );
}

#[test]
fn a_stop_waits_five_seconds_at_most_for_the_hello() {
    let scene = Scene::new().worker(["print up", "wait"]).set("supervision.stopTimeout", "1h");
    let runner = scene.start();
    runner.wait_for_log("up");
    let stopped = runner.signal(Signal::SIGTERM);
    let took = runner.end() - stopped;
    assert!((4.9..15.0).contains(&took.as_secs_f64()), "{took:?}");
    assert_eq!(signals(&runner.events()), ["SIGTERM"]);
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn a_stop_before_the_hello_is_told_when_the_hello_comes() {
    let script = ["on now: exit 72", "print up", "wait-file {dir}/go", "hello graceful-termination", "wait"];
    let scene = Scene::new();
    let script = script.map(|line| line.replace("{dir}", scene.path("").to_str().unwrap()));
    let runner = scene.worker(script).start();
    runner.wait_for_log("up");
    runner.signal(Signal::SIGTERM);
    runner.wait_for_log("stop");
    std::fs::write(runner.path("go"), "").unwrap();
    let ended = runner.ended();
    assert_eq!(
        (ended.code, messages(&ended.events)),
        (Some(0), vec!["welcome".to_owned(), "now".to_owned()])
    );
    assert_eq!(signals(&ended.events), [""; 0]);
}

#[test]
fn a_hello_after_the_time_limit_still_counts() {
    let scene = Scene::new().set("worker.helloTimeout", "50ms");
    let go = scene.path("go");
    let script = [
        "on now: exit 72".to_owned(),
        format!("wait-file {}", go.display()),
        "hello all".to_owned(),
        "wait".to_owned(),
    ];
    let runner = scene.worker(script).start();
    runner.wait_for_log("no hello");
    std::fs::write(go, "").unwrap();
    runner.wait_for_log("says hello");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(
        (ended.code, messages(&ended.events)),
        (Some(0), vec!["welcome".to_owned(), "now".to_owned()])
    );
    assert_eq!(signals(&ended.events), [""; 0]);
}

#[test]
fn a_second_hello_is_ignored() {
    let richer = [
        "await welcome",
        "hello graceful-termination log",
        "hello log",
        "log ready",
        "on now: exit 0",
        "wait",
    ];
    let runner = Scene::new().worker(richer).start();
    runner.wait_for_log("[worker] ready");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, signals(&ended.events)), (Some(0), vec![]));
    assert_eq!(messages(&ended.events), ["welcome", "now"]);
    assert_eq!(ended.log.matches("worker says hello").count(), 1, "{}", ended.log);
    assert!(ended.log.contains("a second hello: ignored"), "{}", ended.log);

    let poorer = ["await welcome", "hello log", "hello graceful-termination log", "log ready", "wait"];
    let runner = Scene::new().worker(poorer).start();
    runner.wait_for_log("[worker] ready");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(
        (messages(&ended.events), signals(&ended.events)),
        (vec!["welcome".to_owned()], vec!["SIGTERM"])
    );
}

#[test]
fn a_malformed_hello_does_not_keep_a_proper_one_from_counting() {
    let script =
        [r#"send {"type":"hello"}"#, "hello graceful-termination log", "log ready", "on now: exit 0", "wait"];
    let runner = Scene::new().worker(script).start();
    runner.wait_for_log("[worker] ready");
    runner.wait_for_log("worker says hello capabilities=graceful-termination,log");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(
        (ended.code, messages(&ended.events)),
        (Some(0), vec!["welcome".to_owned(), "now".to_owned()])
    );
}

#[test]
fn a_worker_that_asks_for_a_login_on_a_host_without_display_manager_is_told_so() {
    let ask = r#"send {"type":"autologin","user":"task_1"}"#;
    let script = ["hello all", ask, ask, "await autologin-result", "await autologin-result", "exit 0"];
    let ended = Scene::new().set("autologin.displayManager", "none").worker(script).start().ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let answers: Vec<_> = named(&ended.events, "message")
        .into_iter()
        .skip(1)
        .map(|event| event.field("message").clone())
        .collect();
    assert_eq!(answers.len(), 2);
    for answer in answers {
        assert_eq!((&answer["user"], &answer["ok"]), (&"task_1".into(), &false.into()));
        assert!(answer["error"].as_str().unwrap().contains("no display manager"), "{answer}");
    }
    assert_eq!(ended.log.matches("it was not offered on this host").count(), 1, "{}", ended.log);
}

#[test]
fn a_message_without_its_capability_has_no_effect() {
    let script = ["hello", "log invisible", r#"send {"type":"shutdown"}"#, "print visible", "exit 0"];
    let ended = Scene::new().worker(script).set("host.shutdownStatic", true).start().ended();
    assert_eq!(ended.code, Some(0));
    assert!(ended.log.contains("visible") && !ended.log.contains("invisible"), "{}", ended.log);
    assert_eq!(ended.host_commands, [""; 0]);
}

#[test]
fn structured_records_become_lines_with_the_text_first() {
    let script = [
        "hello log",
        r#"send {"type":"log","body":{"textPayload":"uhoh","level":"bad","n":[1,2]}}"#,
        r#"send {"type":"log","body":{}}"#,
        r#"send {"type":"log","body":{"z":1.0,"textPayload":5,"a":"b c"}}"#,
        "exit 0",
    ];
    let ended = Scene::new().worker(script).start().ended();
    for line in [
        "[worker] uhoh; level: bad; n: [1,2]\n",
        "[worker] {}\n",
        "[worker] a: b c; textPayload: 5; z: 1.0\n",
    ] {
        assert!(ended.log.contains(line), "no {line:?} in\n{}", ended.log);
    }
}

#[test]
fn with_json_logging_every_line_is_one_object_and_records_stay_structured() {
    let record = r#"send {"type":"log","body":{"textPayload":"uhoh","n":[1,2]}}"#;
    let script = ["hello log", record, r"raw not \xff utf-8\n", "err oops", "exit 0"];
    let ended = Scene::new().worker(script).set("logging.implementation", "json").start().ended();
    let lines: Vec<serde_json::Value> =
        ended.log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(lines.iter().all(serde_json::Value::is_object), "{}", ended.log);
    let events: Vec<&str> = lines.iter().filter_map(|line| line["event"].as_str()).collect();
    assert_eq!(
        events,
        ["runner-started", "worker-started", "worker-hello", "worker-exited", "runner-ended"],
        "{}",
        ended.log
    );
    let structured = |line: &&serde_json::Value| line["body"]["n"] == serde_json::json!([1, 2]);
    assert_eq!(lines.iter().filter(structured).count(), 1, "{}", ended.log);
    assert!(ended.log.contains("not \u{fffd} utf-8") && ended.log.contains("oops"), "{}", ended.log);
}

#[test]
fn a_worker_that_closes_its_stdin_is_stopped_by_signals() {
    let scene = Scene::new().worker(["await welcome", "close-stdin", "hello all", "print deaf", "wait"]);
    let runner = scene.set("supervision.stopTimeout", "200ms").start();
    runner.wait_for_log("deaf");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, signals(&ended.events)), (Some(0), vec!["SIGTERM"]), "{}", ended.log);
}
