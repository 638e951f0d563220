//! `start-worker check --online`: it predicts a start, and has no effect.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use test_support::fake_taskcluster::{FakeTaskcluster, Fault, Times};

use crate::clouds::machine::{EC2, LEGACY, Machine};
use crate::harness::Scene;

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
    for name in ["provider", "name", "connection", "ping", "clock", "worker.path", "worker.configPath"] {
        assert_eq!(step(&found, name).0, "ok", "{name} {found:#}");
    }
    assert_eq!(calls(&taskcluster), ["ping", "workerPool", "worker"]);
    assert_eq!(found["atStart"][0], "the worker registers with worker-manager");

    let output = check(&scene, &["--online"], &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("# online: what a start would meet\n# ok          worker.path: "), "{text}");
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
    assert_eq!(step(&found, "Taskcluster").0, "not checked");
}

/// With this cache in place.
fn with_cache(scene: Scene, text: &str) -> Scene {
    let cache = scene.path("cache.json");
    std::fs::write(&cache, text).unwrap();
    std::fs::set_permissions(&cache, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    scene.set("cacheOverRestarts", cache.to_str().unwrap())
}

/// A complete run of a Google Cloud machine, with credentials that are valid for days. There is no server at its root
/// URL.
fn google_cache() -> String {
    let mut cache: Value =
        serde_json::from_str(include_str!("../fixtures/contract/go-cache-google.json")).unwrap();
    let then = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(72);
    cache["CredentialsExpire"] = format!("{then:.3}").into();
    cache["RootURL"] = "http://127.0.0.1:1".into();
    cache.to_string()
}

#[test]
fn a_cache_that_a_start_would_discard_is_none_and_the_plan_begins_afresh() {
    let taskcluster = taskcluster();
    let another = with_cache(static_scene(&taskcluster.url()), &google_cache());
    let cloud = with_cache(Scene::new().set("provider", json!({"providerType": "aws"})), &google_cache());
    for scene in [another, cloud] {
        let (_, found) = online(&scene, &[("START_WORKER_EC2_METADATA_URL", "http://127.0.0.1:1")]);
        let (result, said) = step(&found, "cached run");
        assert_eq!(result, "ok", "{found:#}");
        assert!(said.starts_with("stale: written for "), "{said}");
        assert!(said.ends_with("; a start begins afresh"), "{said}");
        assert_eq!(found["atStart"][0], "the worker registers with worker-manager");
        assert!(!found["atStart"].to_string().contains("the cached run serves"), "{found:#}");
    }
}

#[test]
fn a_clouds_machine_that_goes_on_with_its_cached_run_needs_nobodys_answer() {
    let scene = with_cache(Scene::new().set("provider", json!({"providerType": "google"})), &google_cache());
    let nobody = [("START_WORKER_GCE_METADATA_URL", "http://127.0.0.1:1")];
    let (code, found) = online(&scene, &nobody);
    assert_eq!(code, Some(0), "{found:#}");
    for name in ["provider", "connection"] {
        assert_eq!(step(&found, name).0, "doubtful", "{name} {found:#}");
    }
    assert!(found["atStart"][0].as_str().unwrap().contains("goes on with the cached run"));
}

#[test]
fn a_pool_that_cannot_be_read_fails_only_where_the_worker_registers_in_it() {
    let taskcluster = taskcluster();
    taskcluster.fail("workerPool", Times::UntilCleared, Fault::bad_gateway());
    let standalone = standalone_scene(&taskcluster);
    for (scene, expected) in
        [(standalone, (Some(0), "doubtful")), (static_scene(&taskcluster.url()), (Some(1), "fails"))]
    {
        let (code, found) = online(&scene, &[]);
        assert_eq!((code, step(&found, "worker pool").0), expected, "{found:#}");
    }
}

#[test]
fn standalone_credentials_that_are_over_fail_whatever_taskcluster_says() {
    let certificate = json!({
        "version": 1, "scopes": [], "start": 1_500_000_000_000_i64, "expiry": 1_600_000_000_000_i64, "seed": "s",
        "signature": "made-up",
    });
    let scene = Scene::new().set("provider.certificate", certificate.to_string());
    let (code, found) = online(&scene.set("provider.rootURL", "http://127.0.0.1:1"), &[]);
    assert_eq!((code, step(&found, "credentials").0), (Some(1), "fails"), "{found:#}");
    assert_eq!(step(&found, "connection").0, "doubtful", "{found:#}");
}

#[test]
fn standalone_credentials_that_are_about_to_expire_do_not_fail() {
    let expiry = jiff::Timestamp::now().as_millisecond() + 100_000;
    let certificate =
        json!({"version": 1, "start": 0, "expiry": expiry, "seed": "s", "signature": "made-up"});
    let scene = Scene::new().set("provider.certificate", certificate.to_string());
    let (_, found) = online(&scene.set("provider.rootURL", "http://127.0.0.1:1"), &[]);
    assert!(!found.to_string().contains("the credentials expired"), "{found:#}");
}

#[test]
fn a_cached_run_that_cannot_be_read_fails() {
    let taskcluster = taskcluster();
    let scene = with_cache(static_scene(&taskcluster.url()), "{");
    let (code, found) = online(&scene, &[]);
    assert_eq!((code, step(&found, "cached run").0), (Some(1), "fails"), "{found:#}");
}

/// A standalone worker that this fake knows, and which fetches secrets.
fn standalone_scene(taskcluster: &FakeTaskcluster) -> Scene {
    taskcluster.add_client("worker/one", "the-token", &["secrets:get:*", "auth:current-scopes"]);
    Scene::new()
        .set("getSecrets", true)
        .set("provider.rootURL", taskcluster.url())
        .set("provider.workerPoolID", "demo/linux")
        .set("provider.clientID", "worker/one")
        .set("provider.accessToken", "the-token")
}

#[test]
fn standalone_credentials_are_accepted_refused_or_may_not_be_asked_about() {
    let taskcluster = taskcluster();
    taskcluster.add_client("worker/mute", "the-token", &["secrets:get:*"]);
    let good = standalone_scene(&taskcluster);
    let mute = standalone_scene(&taskcluster).set("provider.clientID", "worker/mute");
    let wrong = standalone_scene(&taskcluster).set("provider.accessToken", "another-token");
    let unknown = standalone_scene(&taskcluster).set("provider.clientID", "no/such");
    for (scene, code, result, says) in [
        (good, 0, "ok", "Taskcluster accepts worker/one, which has "),
        (mute, 0, "ok", "Taskcluster accepts worker/mute; reading its scopes takes auth:current-scopes"),
        (wrong, 1, "fails", "currentScopes failed: "),
        (unknown, 1, "fails", "currentScopes failed: "),
    ] {
        let (exit, found) = online(&scene, &[]);
        let (outcome, said) = step(&found, "credentials");
        assert_eq!((exit, outcome), (Some(code), result), "{found:#}");
        assert!(said.starts_with(says), "{said}");
        assert_eq!(step(&found, "secrets").0, if code == 0 { "ok" } else { "not checked" }, "{found:#}");
        assert!(!found.to_string().contains("the-token"), "{found:#}");
    }
}

#[test]
fn a_secret_that_may_not_be_read_fails_and_names_the_scope() {
    let taskcluster = taskcluster();
    taskcluster.add_client("worker/poor", "the-token", &["auth:current-scopes"]);
    let scene = standalone_scene(&taskcluster).set("provider.clientID", "worker/poor");
    let (code, found) = online(&scene, &[]);
    let (result, said) = step(&found, "secrets");
    assert_eq!((code, result), (Some(1), "fails"), "{found:#}");
    assert!(said.contains("secrets:get:worker-pool:demo/linux"), "{said}");
}

#[test]
fn what_cannot_be_known_without_an_effect_is_not_checked_and_never_ok() {
    let taskcluster = taskcluster();
    let scene = static_scene(&taskcluster.url()).set("getSecrets", true);
    let (code, found) = online(&scene, &[]);
    assert_eq!(code, Some(0), "{found:#}");
    for name in ["worker configuration", "registration", "secrets", "worker pool"] {
        assert_eq!(step(&found, name).0, "not checked", "{name} {found:#}");
    }
    let output = check(&scene, &["--online"], &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    let verdict = "# verdict: valid; a start would succeed, as far as that can be checked; \
                   not checked: worker configuration, worker pool, registration, secrets\n";
    assert!(text.ends_with(verdict), "{text}");
}

#[test]
fn a_static_worker_or_a_pool_that_everybody_may_ask_about_and_nobody_knows_fails() {
    let taskcluster = taskcluster();
    taskcluster.grant("anonymous", &["worker-manager:get-worker-pool:*", "worker-manager:get-worker:*"]);
    let known = static_scene(&taskcluster.url());
    let no_worker = static_scene(&taskcluster.url()).set("provider.workerID", "worker-2");
    let no_pool = static_scene(&taskcluster.url()).set("provider.workerPoolID", "demo/none");
    for (scene, code, pool, worker) in
        [(known, 0, "ok", "not checked"), (no_worker, 1, "ok", "fails"), (no_pool, 1, "fails", "fails")]
    {
        let (exit, found) = online(&scene, &[]);
        let outcomes = (step(&found, "worker pool").0, step(&found, "registration").0);
        assert_eq!((exit, outcomes), (Some(code), (pool, worker)), "{found:#}");
    }
}

/// Returns true if this scene starts a worker.
fn starts(scene: Scene) -> bool {
    let runner = scene.start();
    let outcome = |log: &str| {
        if log.contains("worker started") {
            return Some(true);
        }
        let over = ["the worker cannot start yet", "worker cannot be started", "start-worker ends:"];
        over.iter().any(|said| log.contains(said)).then_some(false)
    };
    let started = runner.wait_for("a worker or a failure", |_| outcome(&runner.log()));
    runner.signal(nix::sys::signal::Signal::SIGKILL);
    runner.ended();
    started
}

type SetUp = fn(&FakeTaskcluster) -> Scene;

/// Set-ups, of which most are broken in one way.
const SET_UPS: &[(&str, SetUp)] = &[
    ("a static worker", |fake| static_scene(&fake.url())),
    ("a standalone worker", standalone_scene),
    ("nobody listens", |_| static_scene("http://127.0.0.1:1").set("startTimeout", "1s")),
    ("no such host", |_| static_scene("http://nowhere.invalid").set("startTimeout", "1s")),
    ("all calls fail", |fake| {
        fake.fail("any", Times::UntilCleared, Fault::bad_gateway());
        static_scene(&fake.url()).set("startTimeout", "1s")
    }),
    ("no such worker", |fake| static_scene(&fake.url()).set("provider.workerID", "worker-2")),
    ("no such pool", |fake| static_scene(&fake.url()).set("provider.workerPoolID", "demo/none")),
    ("a wrong access token", |fake| standalone_scene(fake).set("provider.accessToken", "another")),
    ("an unknown client", |fake| standalone_scene(fake).set("provider.clientID", "no/such")),
    ("a client without secrets:get", |fake| {
        fake.add_client("worker/poor", "the-token", &["auth:current-scopes"]);
        standalone_scene(fake).set("provider.clientID", "worker/poor")
    }),
    ("a secret that is no configuration", |fake| {
        fake.set_secret("worker-pool:demo/linux", json!({"config": 1}));
        standalone_scene(fake)
    }),
    ("a secret with a configuration", |fake| {
        fake.set_secret("worker-pool:demo/linux", json!({"config": {"a": 1}}));
        standalone_scene(fake)
    }),
    ("an expired certificate", |fake| {
        let certificate =
            json!({"version": 1, "scopes": [], "start": 0, "expiry": 1, "seed": "s", "signature": "x"});
        standalone_scene(fake).set("provider.certificate", certificate.to_string())
    }),
    ("no such program", |fake| static_scene(&fake.url()).set("worker.path", "/no/such/program")),
    ("a program that is a directory", |fake| static_scene(&fake.url()).set("worker.path", "/usr")),
    ("a program that may not be executed", |fake| {
        static_scene(&fake.url()).set("worker.path", "/etc/passwd")
    }),
    ("a configPath below a file", |fake| {
        static_scene(&fake.url()).set("worker.configPath", "/etc/passwd/worker.json")
    }),
    ("a configPath where nobody can write", |fake| {
        static_scene(&fake.url()).set("worker.configPath", "/proc/no/worker.json")
    }),
    ("a cached run that is cut", |fake| with_cache(static_scene(&fake.url()), "{")),
    ("a cached run of another worker", |fake| with_cache(static_scene(&fake.url()), &google_cache())),
    ("a cache where nobody can write", |fake| {
        static_scene(&fake.url()).set("cacheOverRestarts", "/proc/no/cache.json")
    }),
];

#[test]
fn the_verdict_is_what_a_start_then_does() {
    let mut wrong = Vec::new();
    for (name, set_up) in SET_UPS {
        let taskcluster = taskcluster();
        taskcluster.grant("anonymous", &["worker-manager:get-worker-pool:*", "worker-manager:get-worker:*"]);
        let scene = set_up(&taskcluster);
        let (code, found) = online(&scene, &[]);
        let promised = code == Some(0);
        let started = starts(scene);
        if promised != started {
            wrong.push(format!("{name}: promised {promised}, started {started}: {found:#}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
