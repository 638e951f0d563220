//! Caches that the Go start-worker wrote (`tests/fixtures/contract/go-cache-*.json`): the worker starts from them
//! without any request, and that program could read the cache that replaces them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::harness::Scene;
use crate::registration::site::{Site, line, lines, once};

const GOOGLE: &str = include_str!("../fixtures/contract/go-cache-google.json");
const STANDALONE: &str = include_str!("../fixtures/contract/go-cache-standalone.json");

/// Puts a cache in place, its root URL (and every copy of it) replaced by that of a Taskcluster which is to stay
/// unasked, and its credentials good for another three days.
fn put(site: &Site, text: &str, root_url: &str) -> Value {
    let text = text.replace(root_url, &site.taskcluster.url());
    let mut cache: Value = serde_json::from_str(&text).unwrap();
    if cache["CredentialsExpire"] != "0001-01-01T00:00:00.000Z" {
        let then = Timestamp::now() + SignedDuration::from_hours(72);
        cache["CredentialsExpire"] = format!("{then:.3}").into();
    }
    fs::write(site.path("cache.json"), cache.to_string()).unwrap();
    fs::set_permissions(site.path("cache.json"), Permissions::from_mode(0o600)).unwrap();
    cache
}

/// The runner file that the cache of the cloud's worker was made with.
fn google(site: &Site) -> Scene {
    let own = json!({
        "arr": ["runner"], "nested": {"a": 1, "b": {"from": "runner", "x": null}, "list": [1]},
        "requiredDiskSpaceMegabytes": 1024, "ratio": 0.5,
    });
    let scene = site.place(Scene::generic_worker()).set("provider", json!({"providerType": "google"}));
    let scene = scene.set("cacheOverRestarts", site.text_path("cache.json")).set("workerConfig", own);
    // The port is not in use. Beside the worker, only interruptions are requested.
    scene.set("getSecrets", true).env("START_WORKER_GCE_METADATA_URL", "http://127.0.0.1:9")
}

/// The runner file that the other one was made with.
fn standalone(site: &Site) -> Scene {
    let provider = json!({
        "providerType": "standalone", "rootURL": format!("{}/", site.taskcluster.url()), "clientID": "c",
        "accessToken": "fake-token", "workerPoolID": "pp/ww", "workerGroup": "wg", "workerID": "wi",
        "providerMetadata": {"region": "r1"}, "workerLocation": {"dataCenter": "dc1"},
    });
    let own = json!({"list": ["a", "b"], "nested": {"x": 1, "big": 12_345_678_901_234_567_u64}, "deploymentId": "d1"});
    let scene = site.place(Scene::generic_worker()).set("provider", provider).set("workerConfig", own);
    scene.set("cacheOverRestarts", site.text_path("cache.json"))
}

/// The expected content of the worker's file: the cache's configuration, without the runner's own data.
fn expected(cache: &Value) -> Value {
    let mut config = cache["WorkerConfig"].clone();
    config.as_object_mut().unwrap().remove("deploymentId");
    config
}

/// The types of a value, its objects' keys included.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            object.iter().map(|(key, value)| (key.clone(), shape(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::String(_) => "string".into(),
        Value::Number(number) if number.is_f64() => "float".into(),
        Value::Number(_) => "integer".into(),
        Value::Bool(_) => "boolean".into(),
        Value::Null => Value::Null,
    }
}

#[track_caller]
fn assert_nobody_asked(site: &Site) {
    assert_eq!(site.taskcluster.connections(), 0, "{:?}", site.calls());
}

#[test]
fn a_clouds_worker_starts_from_its_go_cache_with_nobody_asked() {
    let site = Site::new();
    let mut cache = put(&site, GOOGLE, "http://tc.example.com");
    let ended = once(google(&site));
    assert_nobody_asked(&site);
    let said = line(&ended.log, "going on with the cached run");
    assert!(said.contains("demo-provider/demo-pool") && said.contains("4242424242424242424"), "{said}");
    assert_eq!(lines(&ended.log, "ERROR"), 0, "{}", ended.log);
    // The runner file overrides the cached configuration, as with the Go program, except for arrays that hold its items
    // already.
    cache["WorkerConfig"]["nested"]["b"]["from"] = json!("runner");
    assert_eq!(site.worker_config(), expected(&cache));
    let env = &ended.events[0].field("env");
    assert_eq!(
        env["TASKCLUSTER_WORKER_LOCATION"],
        r#"{"cloud":"google","region":"us-east1","zone":"us-east1-b"}"#
    );
    assert_eq!(env["TASKCLUSTER_ROOT_URL"], site.taskcluster.url());
}

#[test]
fn a_go_cache_is_written_back_with_the_same_keys_and_types() {
    for (text, root_url, scene) in [
        (GOOGLE, "http://tc.example.com", google as fn(&Site) -> Scene),
        (STANDALONE, "https://tc.example.com", standalone),
    ] {
        let site = Site::new();
        let before = put(&site, text, root_url);
        once(scene(&site));
        let mut after = site.cache();
        let extra = after.as_object_mut().unwrap().remove("Extra");
        assert!(extra.is_some_and(|extra| extra["version"] == 1));
        assert_eq!(shape(&after), shape(&before));
        for key in
            ["RootURL", "Credentials", "CredentialsExpire", "RegistrationSecret", "Files", "WorkerLocation"]
        {
            assert_eq!(after[key], before[key], "{key}");
        }
        let mode = fs::metadata(site.path("cache.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }
}

#[test]
fn a_standalone_worker_starts_from_its_go_cache_with_the_integers_of_the_runner_file() {
    let site = Site::new();
    let mut cache = put(&site, STANDALONE, "https://tc.example.com");
    let ended = once(standalone(&site));
    assert_nobody_asked(&site);
    assert!(ended.log.contains("going on with the cached run"), "{}", ended.log);
    // That program reads integers as floats.
    cache["WorkerConfig"]["nested"]["big"] = json!(12_345_678_901_234_567_u64);
    assert_eq!(site.worker_config(), expected(&cache));
    assert!(site.worker_file().contains("\"big\": 12345678901234567,"), "{}", site.worker_file());
}

#[test]
fn ten_starts_from_a_go_cache_leave_the_worker_configuration_as_it_is() {
    for (text, root_url, scene) in [
        (GOOGLE, "http://tc.example.com", google as fn(&Site) -> Scene),
        (STANDALONE, "https://tc.example.com", standalone),
    ] {
        let site = Site::new();
        put(&site, text, root_url);
        once(scene(&site));
        let (file, cache) = (site.worker_file(), site.cache());
        for _ in 0..9 {
            once(scene(&site));
            assert_eq!(site.worker_file(), file);
            assert_eq!(site.cache(), cache);
        }
        assert_nobody_asked(&site);
    }
}

#[test]
fn a_go_cache_of_another_worker_is_stale() {
    let site = Site::new();
    put(&site, STANDALONE, "https://tc.example.com");
    let ended = once(standalone(&site).set("provider.workerGroup", "elsewhere"));
    let said = line(&ended.log, "the cached run is stale");
    assert!(
        said.contains("written for worker group wg, the runner configuration now says elsewhere"),
        "{said}"
    );
    assert_eq!(site.worker_config()["workerGroup"], "elsewhere");
    assert_eq!(site.cache()["WorkerGroup"], "elsewhere");
}

#[test]
fn a_cloud_worker_whose_cached_credentials_have_expired_says_that_the_machine_is_lost() {
    let site = Site::new();
    let mut cache = put(&site, GOOGLE, "http://tc.example.com");
    let past = Timestamp::now() - SignedDuration::from_hours(1);
    cache["CredentialsExpire"] = format!("{past:.3}").into();
    fs::write(site.path("cache.json"), cache.to_string()).unwrap();
    let scene = google(&site).set("host.startFailureDelay", "0s");
    let ended = scene.start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 0), "{}", ended.log);
    let said = line(&ended.log, "start-worker ends:");
    assert!(said.contains("expired at") && said.contains("replace the machine"), "{said}");
    // worker-manager is told, if it listens; else the machine goes by itself.
    assert_eq!(site.calls(), ["reportWorkerError", "removeWorker"]);
    assert_eq!(ended.host_commands, ["shutdown"]);
}
