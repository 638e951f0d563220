//! The check of every runner's output for secrets: that it sees them, and what it leaves to the worker.
//! `tests/support/secrets.rs` is the check.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::Signal;
use serde_json::json;
use test_support::secrets::Secrets;

use crate::harness::Scene;

const DUMMY: &str = "
provider:
  {providerType: standalone, rootURL: https://tc.example.com, clientID: c, accessToken: hush-access-token,
   workerPoolID: aa/bb, workerGroup: wg, workerID: wi}
getSecrets: false
worker: {implementation: dummy, showSecrets: true}
";

/// The message with which the test panics.
fn failure(test: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(test)).expect_err("it was not seen");
    *panic.downcast::<String>().expect("a message")
}

#[test]
fn a_secret_in_a_runner_s_output_fails_the_test_that_made_it() {
    // The one way in which the program shows a secret: it was asked to, but the test does not say so.
    let says = failure(|| drop(Scene::new().text(DUMMY).start().ended()));
    assert!(says.contains("accessToken is shown"), "{says}");
    assert!(says.contains("hush-access-token"), "{says}");
}

#[test]
fn a_test_that_waits_for_nothing_is_checked_at_its_end() {
    let says = failure(|| {
        let runner = Scene::new().text(DUMMY).start();
        runner.wait_for_log("hush-access-token");
    });
    assert!(says.contains("accessToken is shown"), "{says}");
}

#[test]
fn a_test_that_shows_secrets_on_purpose_says_so() {
    let ended = Scene::new().text(DUMMY).shows_secrets().start().ended();
    assert!(ended.log.contains("hush-access-token"), "{}", ended.log);
}

#[test]
fn what_the_worker_prints_is_its_own_affair() {
    let script = [
        "hello all",
        "print made-up-access-token",
        "err made-up-access-token",
        "log made-up-access-token",
        "wait",
    ];
    for format in ["text", "json"] {
        let runner = Scene::new().worker(script).set("log.format", format).start();
        runner.wait_for_log("made-up-access-token");
        runner.signal(Signal::SIGTERM);
        assert_eq!(runner.ended().log.matches("made-up-access-token").count(), 3);
    }
}

#[test]
fn secrets_are_found_wherever_runners_and_workers_keep_them() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = json!({"version": 1, "seed": "hush-seed", "signature": "hush-signature"}).to_string();
    let cache = json!({
        "Credentials": {"clientId": "shown-client", "accessToken": "hush-token", "certificate": certificate},
        "RegistrationSecret": "hush-registration",
        "Extra": {"layers": [
            {"source": "secret", "name": "worker-pool:aa/bb", "config": {"deep": ["hush-value"]}},
            {"source": "provider", "config": {"open": "shown-value"}},
        ]},
    });
    let record =
        json!({"event": "message", "message": {"type": "new-credentials", "accessToken": "hush-renewed"}});
    std::fs::create_dir(folder.path().join("cache")).unwrap();
    std::fs::write(folder.path().join("cache/run.json"), cache.to_string()).unwrap();
    std::fs::write(folder.path().join("record"), format!("{record}\n{{}}\n")).unwrap();
    std::fs::write(folder.path().join("r.yml"), "provider:\n  staticSecret: hush-static\n").unwrap();
    let secrets = Secrets::of_folder(folder.path());
    let hidden = ["seed", "signature", "token", "registration", "value", "renewed", "static"];
    for name in hidden {
        let line = format!("2026-11-24T00:00:00.000Z INFO  it is hush-{name}.\n");
        assert!(secrets.leaks(line.as_bytes()).contains(" is shown: "), "{name}");
        let quoted = format!("2026-11-24T00:00:00.000Z [runner] {}\n", json!({"certificate": certificate}));
        assert!(!secrets.leaks(quoted.as_bytes()).is_empty());
    }
    assert_eq!(
        secrets.leaks(b"2026-11-24T00:00:00.000Z INFO  shown-client shown-value worker-pool:aa/bb\n"),
        ""
    );
}

#[test]
fn only_what_is_tagged_as_the_worker_s_is_taken_for_it() {
    let mut secrets = Secrets::default();
    secrets.add("a token", "hush-token");
    for line in [
        "hush-token",
        "2026-11-24T00:00:00.000Z INFO  [worker] hush-token",
        "[worker] hush-token",
        r#"{"level":"info","message":"\"source\":\"worker\" hush-token"}"#,
        r#"{"level":"info","source":"runner","message":"hush-token"}"#,
    ] {
        assert!(!secrets.leaks(line.as_bytes()).is_empty(), "{line}");
    }
    for line in ["2026-11-24T00:00:00.000Z [worker] hush-token", r#"{"source":"worker","line":"hush-token"}"#]
    {
        assert_eq!(secrets.leaks(line.as_bytes()), "", "{line}");
    }
    // The line before and the line after do not count for it.
    let log = "2026-11-24T00:00:00.000Z [worker] a\nhush-token\n2026-11-24T00:00:00.000Z [worker] b\n";
    assert!(secrets.leaks(log.as_bytes()).ends_with("a token is shown: hush-token\n"));
}
