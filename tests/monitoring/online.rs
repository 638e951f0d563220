//! `start-worker check --online`: what a start would meet, and that looking has no effect.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::fake_taskcluster::{FakeTaskcluster, Fault, Times};
use crate::machine::{EC2, LEGACY, Machine};
use crate::support::Scene;

const SECRET: &str = "not-a-secret-but-secrets-have-44-characters-";

fn check(scene: &Scene, options: &[&str], environment: &[(&str, &str)]) -> Output {
    let file = scene.write();
    let before = files(&scene.path(""));
    let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
    command.arg("check").args(options).arg(&file).env("RUNTIME_DIRECTORY", scene.path("run"));
    command.env("NO_PROXY", "127.0.0.1").envs(environment.iter().copied());
    let output = command.output().unwrap();
    assert_eq!(files(&scene.path("")), before, "something was written");
    output
}

fn files(folder: &Path) -> BTreeSet<std::ffi::OsString> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// Exit code, and result and findings by step.
#[track_caller]
fn online(scene: &Scene, environment: &[(&str, &str)]) -> (Option<i32>, Value) {
    let output = check(scene, &["--json", "--online"], environment);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code(), report["online"].clone())
}

fn step<'a>(online: &'a Value, name: &str) -> (&'a str, &'a str) {
    let steps = online["steps"].as_array().unwrap();
    let step =
        steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no {name}: {online:#}"));
    (step["result"].as_str().unwrap(), step["found"].as_str().unwrap())
}

fn static_scene(url: &str) -> Scene {
    Scene::new().set(
        "provider",
        json!({
            "providerType": "static", "rootURL": url, "providerID": "static", "workerPoolID": "demo/linux",
            "workerGroup": "here", "workerID": "worker-1", "staticSecret": SECRET,
        }),
    )
}

fn taskcluster() -> FakeTaskcluster {
    let taskcluster = FakeTaskcluster::start();
    taskcluster.set_pool("demo/linux", json!({"config": {}}));
    taskcluster.add_static_worker("demo/linux", "here", "worker-1", SECRET);
    taskcluster
}

fn calls(taskcluster: &FakeTaskcluster) -> Vec<&'static str> {
    taskcluster.requests().iter().map(|request| request.call).collect()
}

#[test]
fn a_static_worker_that_could_start_is_looked_at_without_registering() {
    let taskcluster = taskcluster();
    let scene = static_scene(&taskcluster.url());
    let (code, found) = online(&scene, &[]);
    assert_eq!(code, Some(0), "{found:#}");
    for name in
        ["provider", "name", "connection", "ping", "clock", "worker pool", "worker.path", "worker.configPath"]
    {
        assert_eq!(step(&found, name).0, "ok", "{name} {found:#}");
    }
    assert_eq!(calls(&taskcluster), ["ping", "workerPool"]);
    assert_eq!(found["atStart"][0], "the worker registers with worker-manager");

    let output = check(&scene, &["--online"], &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("# online: what a start would meet\n# ok       worker.path: "), "{text}");
    assert!(text.contains("# at start:\n#   1. the worker registers with worker-manager\n"), "{text}");
    assert!(!text.contains(SECRET));
}

#[test]
fn without_online_nobody_is_asked() {
    let taskcluster = taskcluster();
    let output = check(&static_scene(&taskcluster.url()), &["--json"], &[]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), report.get("online")), (Some(0), None));
    assert!(calls(&taskcluster).is_empty());
}

#[test]
fn what_would_fail_is_named_and_exit_1() {
    let taskcluster = taskcluster();
    let at = taskcluster.url();
    let nobody = static_scene("http://127.0.0.1:1");
    let no_name = static_scene("http://nowhere.invalid");
    let no_program = static_scene(&at).set("worker.path", "/no/such/program");
    for (scene, name, why) in [
        (nobody, "connection", "127.0.0.1 port 1: Connection refused"),
        (no_name, "name", "nowhere.invalid: "),
        (no_program, "worker.path", "/no/such/program: No such file or directory"),
    ] {
        let (code, found) = online(&scene, &[]);
        let (result, said) = step(&found, name);
        assert_eq!((code, result), (Some(1), "fails"), "{found:#}");
        assert!(said.starts_with(why), "{said}");
    }
}

#[test]
fn a_taskcluster_that_is_down_fails_and_a_pool_that_may_not_be_read_does_not() {
    let taskcluster = taskcluster();
    let scene = static_scene(&taskcluster.url());
    taskcluster.fail("ping", Times::UntilCleared, Fault::bad_gateway());
    let (code, found) = online(&scene, &[]);
    assert_eq!((code, step(&found, "ping").0), (Some(1), "fails"), "{found:#}");
    taskcluster.clear_faults();
    let (code, found) = online(&scene, &[]);
    assert_eq!(code, Some(0), "{found:#}");
}

#[test]
fn a_clock_that_is_wrong_is_doubtful() {
    let taskcluster = taskcluster();
    taskcluster.set_clock_offset(jiff::SignedDuration::from_hours(2));
    let (code, found) = online(&static_scene(&taskcluster.url()), &[]);
    let (result, said) = step(&found, "clock");
    assert_eq!((code, result), (Some(0), "doubtful"), "{found:#}");
    assert!(said.ends_with("behind Taskcluster's: set the host's clock"), "{said}");
}

#[test]
fn a_clouds_machine_says_who_it_is_and_keeps_its_registration_and_its_secret() {
    for kind in [EC2, LEGACY] {
        let machine = Machine::new(kind);
        let origin = machine.metadata.origin();
        let environment = [("START_WORKER_EC2_METADATA_URL", origin.as_str())];
        let (code, found) = online(&machine.scene(), &environment);
        assert_eq!(code, Some(0), "{found:#}");
        let (result, said) = step(&found, "provider");
        assert!(result == "ok" && said.contains("i-1234567890abcdef0"), "{said}");
        let asked: BTreeSet<_> = machine.calls().into_iter().map(|(call, _)| call).collect();
        assert_eq!(asked, ["ping", "workerPool"].into(), "nothing that has an effect");
    }
}

#[test]
fn a_metadata_service_that_does_not_answer_fails() {
    let scene = Scene::new().set("provider", json!({"providerType": "aws"}));
    let (code, found) = online(&scene, &[("START_WORKER_EC2_METADATA_URL", "http://127.0.0.1:1")]);
    assert_eq!((code, step(&found, "provider").0), (Some(1), "fails"), "{found:#}");
    assert_eq!(step(&found, "Taskcluster").0, "not tried");
}

#[test]
fn a_cached_run_that_cannot_be_read_fails() {
    let taskcluster = taskcluster();
    let scene = static_scene(&taskcluster.url());
    let cache = scene.path("cache.json");
    let scene = scene.set("cacheOverRestarts", cache.to_str().unwrap());
    std::fs::write(&cache, "{").unwrap();
    std::fs::set_permissions(&cache, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (code, found) = online(&scene, &[]);
    assert_eq!((code, step(&found, "cached run").0), (Some(1), "fails"), "{found:#}");
}
