//! The cache over restarts of a static worker: a fall-back for when Taskcluster is away, and for no other case.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use test_support::fake_taskcluster::{Fault, Times};

use crate::harness::{Scene, named};
use crate::registration::site::{AT_ONCE, POOL, Site, line, lines, once, ready, stop};

const AWAY: &str = "Taskcluster cannot be reached: starting with the cached run";

/// A site whose worker has run once, with all sources of configuration, and whose Taskcluster has forgotten the calls.
fn ran_once() -> (Site, Value) {
    let site = Site::new();
    site.set_worker_config(&json!({"command": {"config": {"from": "the pool", "list": ["pool"]}}}));
    site.set_pool_secret(&json!({"config": {"key": "a secret", "list": ["secret"]}}));
    once(scene(&site));
    let cache = site.cache();
    site.taskcluster.forget_requests();
    (site, cache)
}

fn scene(site: &Site) -> Scene {
    site.cached_scene().set("getSecrets", true).set("workerConfig", json!({"list": ["runner"]}))
}

/// Puts this in the place of the cache.
fn put(site: &Site, text: &str) {
    fs::write(site.path("cache.json"), text).unwrap();
}

/// Changes the cache.
fn change(site: &Site, change: impl FnOnce(&mut Value)) {
    let mut cache = site.cache();
    change(&mut cache);
    put(site, &cache.to_string());
}

#[test]
fn the_second_start_registers_first() {
    let (site, before) = ran_once();
    site.set_worker_config(&json!({"command": {"config": {"from": "a new deployment"}}}));
    let ended = once(scene(&site));
    assert_eq!(site.calls(), ["registerWorker", "secret", "secret"]);
    let config = site.worker_config();
    assert_eq!(
        (&config["from"], &config["list"]),
        (&json!("a new deployment"), &json!(["runner", "secret"]))
    );
    assert_ne!(site.cache()["RegistrationSecret"], before["RegistrationSecret"]);
    assert_eq!(lines(&ended.log, "cached run"), 0, "{}", ended.log);
}

#[test]
fn with_taskcluster_away_the_worker_starts_as_before_after_the_limit() {
    let (site, before) = ran_once();
    let file = site.worker_file();
    fs::remove_file(site.path("worker.json")).unwrap();
    site.taskcluster.stop();
    let runner = scene(&site).set("startTimeout", "3s").start();
    ready(&runner);
    assert_eq!(site.worker_file(), file);
    let ended = stop(&runner);
    let started = named(&ended.events, "start").len();
    assert_eq!(started, 1);
    let said = line(&ended.log, AWAY);
    assert!(said.contains("WARN") && said.contains("Connection refused"), "{said}");
    assert!(ended.log.contains("going on with the cached run"), "{}", ended.log);
    let after = ended.after;
    assert!((Duration::from_millis(1900)..Duration::from_secs(3) + AT_ONCE).contains(&after), "{after:?}");
    assert_eq!(site.cache(), before, "the registration is still good");
}

#[test]
fn ten_starts_from_our_own_cache_leave_the_worker_configuration_as_it_is() {
    let (site, before) = ran_once();
    let file = site.worker_file();
    site.taskcluster.stop();
    for _ in 0..10 {
        let ended = once(scene(&site).set("startTimeout", "200ms"));
        assert!(ended.log.contains(AWAY), "{}", ended.log);
        assert_eq!(site.worker_file(), file);
        assert_eq!(site.cache(), before);
    }
}

#[test]
fn a_cached_start_takes_the_runner_file_as_it_is_now() {
    let (site, _) = ran_once();
    site.taskcluster.stop();
    let changed = json!({"list": ["new"], "from": "the runner file", "added": true});
    once(scene(&site).set("workerConfig", changed).set("startTimeout", "200ms"));
    let mut config = site.worker_config();
    config.as_object_mut().unwrap().remove("taskcluster");
    let expected =
        json!({"list": ["new", "pool", "secret"], "from": "the pool", "added": true, "key": "a secret"});
    assert_eq!(config, expected);
}

#[test]
fn files_are_not_written_again_on_a_cached_run() {
    let site = Site::new();
    let shipped = crate::registration::site::file(&site.text_path("shipped"), "a file", b"first", "file");
    site.set_worker_config(&json!({"command": {"config": {}, "files": [shipped]}}));
    once(scene(&site));
    fs::write(site.path("shipped"), "changed by somebody").unwrap();
    site.taskcluster.stop();
    once(scene(&site).set("startTimeout", "200ms"));
    assert_eq!(fs::read_to_string(site.path("shipped")).unwrap(), "changed by somebody");
}

#[test]
fn a_refusal_is_told_and_the_cache_is_not_used() {
    let (site, before) = ran_once();
    let message = r#"{"code": "InputError", "message": "worker is not running"}"#;
    site.taskcluster.fail(
        "registerWorker",
        Times::UntilCleared,
        Fault::answer(400, "application/json", message),
    );
    let runner = scene(&site).start();
    runner.wait_for_log("the worker cannot start yet");
    let ended = stop(&runner);
    assert_eq!(ended.starts(), 0, "{}", ended.log);
    assert!(line(&ended.log, "cannot start yet").contains("worker is not running"), "{}", ended.log);
    assert_eq!(site.calls(), ["registerWorker"]);
    assert_eq!(site.cache(), before);
}

#[test]
fn a_secret_that_cannot_be_had_for_now_falls_back_on_the_cache_too() {
    let (site, _) = ran_once();
    let file = site.worker_config();
    site.taskcluster.fail("secret", Times::UntilCleared, Fault::bad_gateway());
    let ended = once(scene(&site).set("startTimeout", "2s"));
    assert!(
        line(&ended.log, AWAY).contains("cannot read the secret worker-type:demo/linux"),
        "{}",
        ended.log
    );
    assert_eq!(site.worker_config()["key"], file["key"]);
}

#[test]
fn a_stale_cache_is_told_and_replaced() {
    let (site, _) = ran_once();
    site.taskcluster.set_pool("demo/other", json!({"config": {}}));
    site.taskcluster.add_static_worker(
        "demo/other",
        "here",
        "worker-1",
        crate::registration::site::STATIC_SECRET,
    );
    let ended = once(scene(&site).set("provider.workerPoolID", "demo/other"));
    let said = line(&ended.log, "the cached run is stale");
    let why = "written for worker pool demo/linux, the runner configuration now says demo/other";
    assert!(said.contains("WARN") && said.contains(why) && said.contains("starting afresh"), "{said}");
    assert_eq!(site.cache()["WorkerPoolID"], "demo/other");
    assert_eq!(site.worker_config().get("key"), None, "nothing of the old pool");
    assert_eq!(site.calls(), ["registerWorker", "secret", "secret"]);
}

#[test]
fn a_stale_cache_does_not_serve_where_taskcluster_is_away() {
    let (site, before) = ran_once();
    site.taskcluster.stop();
    let scene = scene(&site).set("provider.workerID", "worker-2").set("startTimeout", "2s");
    let ended = scene.start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(75), 0), "{}", ended.log);
    assert_eq!(site.cache(), before);
}

#[test]
fn expired_credentials_in_the_cache_are_of_no_use_and_the_worker_registers_anew() {
    let (site, _) = ran_once();
    let past = Timestamp::now() - SignedDuration::from_hours(1);
    change(&site, |cache| cache["CredentialsExpire"] = format!("{past:.3}").into());
    let cache = site.cache();
    site.taskcluster.fail("registerWorker", Times::UntilCleared, Fault::bad_gateway());
    let ended = scene(&site).set("startTimeout", "2s").start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(75), 0), "{}", ended.log);
    assert_eq!(site.cache(), cache);
    site.taskcluster.clear_faults();
    site.taskcluster.forget_requests();
    once(scene(&site));
    assert_eq!(site.calls(), ["registerWorker", "secret", "secret"]);
    assert_ne!(site.cache()["Credentials"], cache["Credentials"]);
}

#[test]
fn a_worker_that_was_removed_is_not_started_again() {
    let (site, _) = ran_once();
    let removed = json!({"at": "2026-11-24T10:00:00.000Z", "reason": "interrupted"});
    change(&site, |cache| cache["Extra"]["removed"] = removed);
    let ended = scene(&site).start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
    let said = line(&ended.log, "this worker was removed from worker-manager");
    assert!(said.contains("2026-11-24T10:00:00Z") && said.contains("reason=interrupted"), "{said}");
    assert_eq!(site.calls(), [""; 0]);
}

#[test]
fn the_cache_is_for_its_owner_only_and_in_a_folder_of_its_own() {
    let site = Site::new();
    once(site.scene().set("cacheOverRestarts", site.text_path("made/here/cache.json")));
    let mode = |name: &str| fs::metadata(site.path(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode("made"), mode("made/here"), mode("made/here/cache.json")], [0o700, 0o700, 0o600]);
    let cache = crate::registration::site::read_json(&site.path("made/here/cache.json"));
    assert_eq!(cache["WorkerPoolID"], POOL);
}
