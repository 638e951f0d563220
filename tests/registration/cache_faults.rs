//! Caches that cannot be read: nothing is started half-configured. Caches that cannot be written: the worker runs.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;

use crate::harness::named;
use crate::registration::site::{AT_ONCE, Site, line, lines, once, ready, stop};

/// A site whose worker has run once.
fn ran_once() -> Site {
    let site = Site::new();
    once(site.cached_scene());
    site.taskcluster.forget_requests();
    site
}

/// Asserts that the runner exits with this code without any start or request, and that the error names the cache, the
/// problem, and the remedy.
#[track_caller]
fn refuses(site: &Site, code: i32, says: &str, advice: &str) {
    let (before, connections) = (fs::read(site.path("cache.json")).unwrap(), site.taskcluster.connections());
    let ended = site.cached_scene().start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(code), 0), "{}", ended.log);
    let said = line(&ended.log, "start-worker ends:");
    for part in ["ERROR", &site.text_path("cache.json"), says, advice] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    assert!(ended.after < AT_ONCE, "{:?}", ended.after);
    assert_eq!(site.taskcluster.connections(), connections);
    assert_eq!(fs::read(site.path("cache.json")).unwrap(), before, "left as it is");
}

#[test]
fn an_empty_a_truncated_and_a_garbled_cache_start_nothing() {
    let site = ran_once();
    let whole = fs::read_to_string(site.path("cache.json")).unwrap();
    let half = &whole[..whole.len() / 2];
    let advice = "remove it to start afresh";
    for (text, says) in [
        ("", "it is empty"),
        (" \n", "it is empty"),
        (half, "it is truncated"),
        ("not json at all", "it is not JSON"),
        ("[]", "expected an object"),
        ("{}", "is missing"),
        (&whole.replace("\"WorkerGroup\"", "\"WorkerGruop\""), "WorkerGroup is missing"),
        (&whole.replace("\"worker-1\"", "17"), "WorkerID: expected"),
        (&format!("{whole}{half}"), "it is not JSON"),
    ] {
        fs::write(site.path("cache.json"), text).unwrap();
        refuses(&site, 1, says, advice);
    }
    let zeros = vec![0; whole.len()];
    fs::write(site.path("cache.json"), zeros).unwrap();
    refuses(&site, 1, "it is not JSON", advice);
    // As it says.
    fs::remove_file(site.path("cache.json")).unwrap();
    once(site.cached_scene());
}

#[test]
fn a_cache_that_others_can_read_is_77() {
    let site = ran_once();
    for mode in [0o644, 0o640, 0o606] {
        fs::set_permissions(site.path("cache.json"), Permissions::from_mode(mode)).unwrap();
        refuses(&site, 77, "600", "or remove it to start afresh");
        let now = fs::metadata(site.path("cache.json")).unwrap().permissions().mode();
        assert_eq!(now & 0o777, mode, "not tightened");
    }
}

#[test]
fn a_cache_that_is_a_symlink_is_77() {
    let site = ran_once();
    fs::rename(site.path("cache.json"), site.path("elsewhere.json")).unwrap();
    symlink(site.path("elsewhere.json"), site.path("cache.json")).unwrap();
    refuses(&site, 77, "found a symbolic link", "or remove it to start afresh");
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning_and_new_credentials_reach_the_worker_all_the_same() {
    let site = Site::with_one_renewal();
    fs::write(site.path("file"), "").unwrap();
    // No folder can be made below a file, and no disk is as full.
    let scene = site.scene().set("cacheOverRestarts", site.text_path("file/cache.json"));
    let script = ["on now: exit 0", "hello all", "await new-credentials", "note ready", "wait"];
    let runner = scene.worker(script).start();
    site.let_renew(&runner);
    ready(&runner);
    let ended = stop(&runner);
    let said = line(&ended.log, "the cached run cannot be");
    assert!(said.contains("WARN") || said.contains("ERROR"), "{said}");
    assert!(said.contains(&site.text_path("file/cache.json")), "{said}");
    assert_eq!(ended.starts(), 1);
    assert_eq!(lines(&ended.log, "the cached run cannot be"), 1, "told once: {}", ended.log);
}

#[test]
fn a_cache_whose_folder_turns_bad_while_the_worker_runs_is_a_warning() {
    let site = Site::with_one_renewal();
    let scene = site.scene().set("cacheOverRestarts", site.text_path("folder/cache.json"));
    let script = ["on now: exit 0", "hello all", "note up", "await new-credentials", "note ready", "wait"];
    let runner = scene.worker(script).start();
    runner.wait_for_note("up");
    fs::remove_dir_all(site.path("folder")).unwrap();
    fs::write(site.path("folder"), "").unwrap();
    site.let_renew(&runner);
    ready(&runner);
    let messages = runner.events();
    let told =
        named(&messages, "message").into_iter().find(|it| it.text("type") == "new-credentials").cloned();
    assert!(told.unwrap().field("message")["access-token"].is_string());
    runner.wait_for_log("the cached run cannot be written");
    // A cache that can be written again is written at the end at the latest.
    fs::remove_file(site.path("folder")).unwrap();
    stop(&runner);
    let cache = crate::registration::site::read_json(&site.path("folder/cache.json"));
    assert_eq!(
        cache["RegistrationSecret"].as_str(),
        site.taskcluster.one_time_secret(&site.worker).as_deref()
    );
}

#[test]
fn unknown_keys_of_a_cache_are_kept() {
    let site = ran_once();
    let mut cache = site.cache();
    cache["Later"] = json!({"a": [1]});
    cache["Extra"]["later"] = json!(2);
    fs::write(site.path("cache.json"), cache.to_string()).unwrap();
    once(site.cached_scene());
    let now = site.cache();
    assert_eq!((&now["Later"], &now["Extra"]["later"]), (&json!({"a": [1]}), &json!(2)));
    assert_ne!(now["Credentials"], cache["Credentials"]);
}
