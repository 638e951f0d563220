//! Errors reach worker-manager: the worker's own, handed on, and the runner's when it gives up, once.

use serde_json::{Value, json};
use test_support::fake_taskcluster::{Fault, Times};

use crate::harness::{DEADLINE, Scene};
use crate::registration::site::{GROUP, STATIC_SECRET, Site, WORKER, assert_discreet, line, lines, stop};

fn report(title: &str, description: &str, extra: &Value) -> String {
    let message = json!({
        "type": "error-report", "kind": "worker-error", "title": title, "description": description, "extra": extra,
    });
    format!("send {message}")
}

#[test]
fn a_workers_report_reaches_worker_manager_cut_and_masked() {
    let site = Site::new();
    let title = "é".repeat(200);
    let description = format!("it said {STATIC_SECRET}; {}", "x".repeat(11_000));
    let report = report(&title, &description, &json!({"a": [1, 2], "who": "me"}));
    let runner = site.scene().worker(["on now: exit 0", "hello all", &report, "wait"]).start();
    site.taskcluster.wait_for_answers("reportWorkerError", 1, DEADLINE);
    runner.wait_for_log("reported to worker-manager");
    let ended = stop(&runner);
    let told = site.taskcluster.reported_errors();
    assert_eq!(told.len(), 1);
    let cut: String = title.chars().take(127).chain(['…']).collect();
    assert_eq!(told[0]["title"], cut);
    assert_eq!(told[0]["kind"], "worker-error");
    assert_eq!(told[0]["extra"], json!({"a": [1, 2], "who": "me", "workerGroup": GROUP, "workerId": WORKER}));
    let description = told[0]["description"].as_str().unwrap();
    assert_eq!(description.chars().count(), 10_240);
    assert!(
        description.starts_with("it said (masked); xxx") && description.ends_with("… (cut)"),
        "{description}"
    );
    let requests = site.taskcluster.requests();
    assert_eq!(requests[1].path, "/api/worker-manager/v1/worker-pool-errors/demo%2Flinux");
    let body = requests[1].body.clone().unwrap();
    let keys: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["description", "extra", "kind", "title", "workerGroup", "workerId"]);
    assert_discreet(&ended.log, &[STATIC_SECRET]);
}

#[test]
fn of_a_flood_of_reports_one_is_sent_and_the_rest_counted() {
    let site = Site::new();
    let scene = site.scene().set("supervision.maxRestarts", 0);
    let runner = scene.worker(["hello all", "flood report 1s", "flood report-huge 300ms", "exit 3"]).start();
    let ended = runner.ended();
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    // The worker has reported within the last minute, so the runner does not repeat that.
    assert_eq!(site.calls(), ["registerWorker", "reportWorkerError"], "{}", ended.log);
    assert!(ended.log.matches("worker reports an error").count() <= 10, "{}", ended.log);
    assert!(ended.log.contains("further ones were neither logged nor sent"), "{}", ended.log);
}

#[test]
fn a_report_that_fails_for_a_while_arrives_all_the_same() {
    let site = Site::new();
    site.taskcluster.fail("reportWorkerError", Times::Only(2), Fault::bad_gateway());
    let report = report("title", "description", &json!({}));
    let runner = site.scene().worker(["on now: exit 0", "hello all", &report, "wait"]).start();
    runner.wait_for_log("reported to worker-manager");
    stop(&runner);
    assert_eq!(site.taskcluster.reported_errors().len(), 1);
    assert_eq!(site.taskcluster.count("reportWorkerError"), 3);
}

#[test]
fn giving_up_is_reported_once() {
    let site = Site::new();
    let scene =
        site.scene().set("supervision.maxRestarts", 0).worker(["hello all", "err a last word", "exit 3"]);
    let ended = scene.start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 1), "{}", ended.log);
    let told = site.taskcluster.reported_errors();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0]["kind"], "worker-runner");
    let title = told[0]["title"].as_str().unwrap();
    assert!(title.contains("command") && title.contains("exit code 3"), "{title}");
    // The worker's text may be anything, and reports have many readers.
    assert!(!told[0].to_string().contains("a last word"), "{told:#?}");
    assert_eq!(told[0]["extra"]["crashes"], 1);
    assert_eq!(site.calls(), ["registerWorker", "reportWorkerError"]);
}

#[test]
fn the_last_lines_are_reported_where_the_operator_lets_them_be() {
    let site = Site::new();
    let scene = site.scene().set("supervision.maxRestarts", 0).set("supervision.reportOutputLines", 2);
    let said = format!("err with {STATIC_SECRET}");
    scene.worker(["hello all", "err first", &said, "err last", "exit 3"]).start().ended();
    let told = site.taskcluster.reported_errors();
    let description = told[0]["description"].as_str().unwrap();
    assert!(description.contains("with (masked)") && description.contains("last"), "{description}");
    assert!(!description.contains("first"), "{description}");
}

#[test]
fn giving_up_is_not_reported_after_the_workers_own_report() {
    let site = Site::new();
    let report = report("my own", "description", &json!({}));
    let scene = site.scene().set("supervision.maxRestarts", 0).worker(["hello all", &report, "exit 3"]);
    let ended = scene.start().ended();
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    let told = site.taskcluster.reported_errors();
    assert_eq!(told.iter().map(|error| error["title"].clone()).collect::<Vec<_>>(), ["my own"]);
}

#[test]
fn a_report_that_nobody_takes_ends_with_the_stop() {
    let site = Site::new();
    site.taskcluster.fail("reportWorkerError", Times::UntilCleared, Fault::InternalError);
    let report = report("title", "description", &json!({}));
    let runner = site.scene().worker(["on now: exit 0", "hello all", &report, "wait"]).start();
    runner.wait_for_log("a call to Taskcluster fails: trying again");
    runner.signal(nix::sys::signal::Signal::SIGTERM);
    runner.wait_for_log("worker exited");
    // After a second request the runner does not wait for the report.
    runner.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(line(&ended.log, "trying again").contains("reportWorkerError failed"), "{}", ended.log);
    assert_eq!(lines(&ended.log, "trying again"), 1, "{}", ended.log);
}

#[test]
fn a_failure_is_reported_once_a_day_and_a_pausing_runner_registers_nothing() {
    let site = Site::new();
    let scene = |pause: &str, exit: &str| {
        let scene = site.place(Scene::generic_worker()).worker(["hello all", exit]);
        scene
            .set("supervision.restart", "never")
            .set("supervision.failureBackoff", json!({"initial": pause, "max": "2h"}))
            .env("STATE_DIRECTORY", &site.text_path("state"))
    };
    for exit in ["exit 64", "exit 64", "exit 73", "exit 64"] {
        let ended = scene("1ms", exit).start().ended();
        assert_eq!((ended.code, ended.starts()), (Some(1), 1), "{}", ended.log);
    }
    let told = site.taskcluster.reported_errors();
    let mut titles: Vec<&str> = told.iter().filter_map(|error| error["title"].as_str()).collect();
    titles.sort_unstable();
    assert_eq!(titles.len(), 2, "{titles:?}");
    assert!(titles[0].contains("exit code 64") && titles[1].contains("exit code 73"), "{titles:?}");
    let registrations = site.taskcluster.count("registerWorker");
    let runner = scene("1h", "exit 64").start();
    runner.wait_for_log("earlier runs have failed: pausing");
    runner.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    assert_eq!(site.taskcluster.count("registerWorker"), registrations);
}
