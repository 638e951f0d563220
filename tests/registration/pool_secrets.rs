//! The pool's secrets: their forms, and the messages when they are not available.

use std::time::Duration;

use serde_json::{Value, json};
use test_support::fake_taskcluster::{Fault, Times};

use crate::registration::site::{POOL, Site, line, lines, once, stop};

/// The first secret's refusal as it was recorded, for this secret.
fn may_not_be_read(name: &str) -> Fault {
    let recorded: Value = serde_json::from_str(include_str!("../fixtures/contract/exchanges.json")).unwrap();
    let exchange =
        recorded.as_array().unwrap().iter().find(|it| it["name"] == "secrets.get other pool").unwrap();
    let body = exchange["response"]["body"].to_string().replace("worker-pool:demo-provider/other-pool", name);
    Fault::answer(403, "application/json; charset=utf-8", &body)
}

#[test]
fn get_secrets_false_asks_for_none() {
    let site = Site::new();
    site.set_pool_secret(&json!({"config": {"a": 1}}));
    once(site.scene().set("getSecrets", false));
    assert_eq!(site.calls(), ["registerWorker"]);
    assert_eq!(site.worker_config().get("a"), None);
}

#[test]
fn a_pool_without_secrets_is_one_warning() {
    let site = Site::new();
    let ended = once(site.scene().set("getSecrets", true));
    assert_eq!(site.calls(), ["registerWorker", "secret", "secret"]);
    assert_eq!(lines(&ended.log, "WARN"), 1, "{}", ended.log);
    let said = line(&ended.log, "this worker pool has no secret");
    assert!(said.contains("neither worker-type:demo/linux nor worker-pool:demo/linux"), "{said}");
}

#[test]
fn the_flat_form_is_configuration_at_the_top() {
    let site = Site::new();
    site.set_worker_config(&json!({"flat": "pool", "both": ["pool"]}));
    site.set_pool_secret(&json!({"both": ["secret"], "legacy": true}));
    once(site.scene().set("getSecrets", true));
    let mut config = site.worker_config();
    config.as_object_mut().unwrap().remove("taskcluster");
    assert_eq!(config, json!({"flat": "pool", "both": ["pool", "secret"], "legacy": true}));
}

#[test]
fn a_secret_with_an_unknown_key_beside_config_says_how_it_was_taken() {
    let site = Site::new();
    site.set_pool_secret(&json!({"config": {"a": 1}, "file": []}));
    let ended = once(site.scene().set("getSecrets", true));
    assert_eq!(site.worker_config()["config"], json!({"a": 1}));
    assert!(line(&ended.log, "worker-pool:demo/linux").contains("WARN"), "{}", ended.log);
}

#[test]
fn a_worker_type_secret_that_may_not_be_read_is_passed_over() {
    let site = Site::new();
    site.set_pool_secret(&json!({"config": {"a": 1}}));
    site.taskcluster.fail("secret", Times::Only(1), may_not_be_read("worker-type:demo/linux"));
    let ended = once(site.scene().set("getSecrets", true));
    assert_eq!(site.worker_config()["a"], 1);
    assert_eq!(lines(&ended.log, "WARN"), 0, "{}", ended.log);
    assert_eq!(site.taskcluster.count("secret"), 2);
}

#[test]
fn a_worker_pool_secret_that_may_not_be_read_names_the_scope_and_is_not_hammered() {
    let site = Site::new();
    let name = format!("worker-pool:{POOL}");
    site.taskcluster.set_secret(&format!("worker-type:{POOL}"), json!({"config": {}}));
    // The first call is for worker-type.
    site.taskcluster.fail("secret", Times::Only(1), Fault::LateAnswer(Duration::ZERO));
    site.taskcluster.fail("secret", Times::UntilCleared, may_not_be_read(&name));
    let runner = site.scene().set("getSecrets", true).start();
    runner.wait_for_log("the worker cannot start yet");
    let ended = stop(&runner);
    let said = line(&ended.log, "the worker cannot start yet");
    for part in [
        "cannot read the secret worker-pool:demo/linux",
        "403 InsufficientScopes",
        "the worker pool's role lacks the scope secrets:get:worker-pool:demo/linux",
        "again_in=10m",
    ] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    assert_eq!(site.calls(), ["registerWorker", "secret", "secret"]);
    assert_eq!(ended.starts(), 0);
}

#[test]
fn a_standalone_client_without_the_scope_is_named_and_not_the_pools_role() {
    let site = Site::new();
    site.taskcluster.fail("secret", Times::UntilCleared, may_not_be_read(&format!("worker-pool:{POOL}")));
    let provider = json!({
        "providerType": "standalone", "rootURL": site.taskcluster.url(), "clientID": "project/ci/worker",
        "accessToken": "a-made-up-access-token-of-a-client", "workerPoolID": POOL, "workerGroup": "here",
        "workerID": "worker-1",
    });
    let scene = site.scene().set("provider", provider).set("getSecrets", true).set("startTimeout", "5s");
    let ended = scene.start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 0), "{}", ended.log);
    let said = line(&ended.log, "start-worker ends:");
    let scope = "; the client project/ci/worker lacks the scope secrets:get:worker-pool:demo/linux";
    assert!(said.contains(scope) && !said.contains("role"), "{said}");
}

#[test]
fn a_secret_that_is_no_object_is_refused_by_its_name_alone() {
    let site = Site::new();
    site.set_pool_secret(&json!("hidden-by-all-means"));
    let ended = site.scene().set("getSecrets", true).set("startTimeout", "5s").start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 0), "{}", ended.log);
    assert!(line(&ended.log, "start-worker ends:").contains("worker-pool:demo/linux"), "{}", ended.log);
    assert!(!ended.log.contains("hidden-by-all-means"), "{}", ended.log);
}
