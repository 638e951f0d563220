//! From nothing to a running worker: the requests, the merged configuration, the files.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Map, Value, json};
use test_support::fake_taskcluster::Request;
use zip::write::SimpleFileOptions;

use crate::harness::{Scene, named};
use crate::registration::site::{
    GROUP, POOL, STATIC_SECRET, Site, WORKER, assert_discreet, file, line, lines, once, ready, stop,
};

/// The sources of a worker configuration: the runner file's, the pool's, and both secrets.
fn with_all_sources(site: &Site, scene: Scene, implementation: &str) -> Scene {
    let from_the_pool = json!({
        "list": ["pool"], "who": "pool", "big": 9_007_199_254_740_993_u64, "float": 1.0, "nested": {"pool": null, "who": "pool"},
    });
    let mut config = Map::new();
    config.insert(implementation.to_owned(), json!({"config": from_the_pool}));
    site.set_worker_config(&config.into());
    site.taskcluster.set_secret(
        &format!("worker-type:{POOL}"),
        json!({"config": {"list": ["type"], "who": "type", "older": true}}),
    );
    site.set_pool_secret(
        &json!({"config": {"list": ["secret"], "who": "secret", "key": "hidden-by-all-means"}}),
    );
    let own =
        json!({"list": ["runner"], "who": "runner", "kept": "yes", "nested": {"runner": 1, "who": "runner"}});
    scene
        .set("workerConfig", own)
        .set("getSecrets", true)
        .set("cacheOverRestarts", site.text_path("cache.json"))
}

/// JSON's own way to write a string.
fn quoted(value: &Value) -> String {
    value.as_str().map(|text| Value::from(text).to_string()).unwrap()
}

/// The kernel's own word for when it started.
fn boot_time() -> jiff::Timestamp {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime ")).unwrap();
    jiff::Timestamp::from_second(seconds.trim().parse().unwrap()).unwrap()
}

#[test]
fn the_command_worker_finds_all_sources_merged_to_the_byte() {
    let site = Site::new();
    let scene = with_all_sources(&site, site.scene(), "command");
    let runner = scene.start();
    ready(&runner);
    let credentials = site.cache()["Credentials"].clone();
    let expected = format!(
        r#"{{
  "big": 9007199254740993,
  "float": 1.0,
  "kept": "yes",
  "key": "hidden-by-all-means",
  "list": [
    "runner",
    "pool",
    "type",
    "secret"
  ],
  "nested": {{
    "pool": null,
    "runner": 1,
    "who": "pool"
  }},
  "older": true,
  "taskcluster": {{
    "accessToken": {},
    "certificate": {},
    "clientId": "worker/static/demo/linux/here/worker-1",
    "rootUrl": "{}",
    "workerGroup": "here",
    "workerId": "worker-1",
    "workerPoolId": "demo/linux"
  }},
  "who": "secret"
}}
"#,
        quoted(&credentials["accessToken"]),
        quoted(&credentials["certificate"]),
        site.taskcluster.url(),
    );
    assert_eq!(site.worker_file(), expected);
    let mode = fs::metadata(site.path("worker.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let welcome = named(&runner.events(), "message")[0].field("message").clone();
    let offered =
        ["autologin", "error-report", "graceful-termination", "log", "new-credentials", "reboot", "shutdown"];
    assert_eq!(welcome, json!({"type": "welcome", "capabilities": offered}));
    let ended = stop(&runner);
    let secrets = ["accessToken", "certificate"].map(|key| credentials[key].as_str().unwrap());
    assert_discreet(&ended.log, &secrets);
    assert_discreet(&ended.log, &[STATIC_SECRET, "hidden-by-all-means", "BEGIN"]);
}

#[test]
fn generic_worker_finds_all_sources_merged_to_the_byte() {
    let site = Site::new();
    let scene = site.place(Scene::generic_worker()).set("workerConfig", json!({}));
    let scene = with_all_sources(&site, scene, "genericWorker");
    let scene = scene.set("provider.workerLocation", json!({"room": "basement"})).set(
        "provider.providerMetadata",
        json!({"instance-type": "box", "local-ipv4": "10.0.0.1", "rack": 7}),
    );
    once(scene);
    let credentials = site.cache()["Credentials"].clone();
    let mut expected = r#"{
  "accessToken": TOKEN,
  "big": 9007199254740993,
  "certificate": CERTIFICATE,
  "clientId": "worker/static/demo/linux/here/worker-1",
  "float": 1.0,
  "instanceType": "box",
  "kept": "yes",
  "key": "hidden-by-all-means",
  "list": [
    "runner",
    "pool",
    "type",
    "secret"
  ],
  "nested": {
    "pool": null,
    "runner": 1,
    "who": "pool"
  },
  "older": true,
  "privateIP": "10.0.0.1",
  "provisionerId": "demo",
  "rootURL": "ROOT",
  "who": "secret",
  "workerGroup": "here",
  "workerId": "worker-1",
  "workerLocation": "{\"cloud\":\"static\",\"room\":\"basement\"}",
  "workerType": "linux",
  "workerTypeMetadata": {
    "instance-type": "box",
    "local-ipv4": "10.0.0.1",
    "rack": 7
  }
}
"#
    .replace("TOKEN", &quoted(&credentials["accessToken"]))
    .replace("CERTIFICATE", &quoted(&credentials["certificate"]));
    expected = expected.replace("ROOT", &site.taskcluster.url());
    assert_eq!(site.worker_file(), expected);
}

#[test]
fn the_requests_are_those_of_the_contract() {
    let site = Site::new();
    let booted_before = boot_time();
    once(with_all_sources(&site, site.scene(), "command"));
    let requests = site.taskcluster.requests();
    let described = |request: &Request| {
        let signed = if request.signed { " signed" } else { "" };
        format!("{} {}{signed}: {}", request.method, request.path, request.status.unwrap_or_default())
    };
    let described: Vec<String> = requests.iter().map(described).collect();
    assert_eq!(
        described,
        [
            "POST /api/worker-manager/v1/worker/register: 200",
            "GET /api/secrets/v1/secret/worker-type%3Ademo%2Flinux signed: 200",
            "GET /api/secrets/v1/secret/worker-pool%3Ademo%2Flinux signed: 200",
        ]
    );
    for request in &requests {
        let agent = concat!("start-worker/", env!("CARGO_PKG_VERSION"));
        assert_eq!(request.user_agent.as_deref(), Some(agent), "{request:?}");
    }
    let mut body = requests[0].body.clone().unwrap();
    let told: jiff::Timestamp = body["systemBootTime"].as_str().unwrap().parse().unwrap();
    // The boot time changes when the host's clock is set.
    assert!([booted_before, boot_time()].contains(&told), "{told}");
    body.as_object_mut().unwrap().remove("systemBootTime");
    let expected = json!({
        "workerPoolId": POOL, "providerId": "static", "workerGroup": GROUP, "workerId": WORKER,
        "workerIdentityProof": {"staticSecret": STATIC_SECRET},
    });
    assert_eq!(body, expected);
    assert!(requests[1..].iter().all(|request| request.body.is_none()));
}

#[test]
fn an_older_deployment_is_asked_once_more_without_the_boot_time() {
    let site = Site::new();
    site.taskcluster.set_knows_boot_time(false);
    let ended = once(site.scene());
    let bodies = site.bodies("registerWorker");
    let told: Vec<bool> = bodies.iter().map(|body| body.get("systemBootTime").is_some()).collect();
    assert_eq!(told, [true, false], "{}", ended.log);
    assert_eq!(lines(&ended.log, "does not know systemBootTime: registering without it"), 1, "{}", ended.log);
}

#[test]
fn the_story_of_a_start_names_the_worker_and_when_its_credentials_expire() {
    let site = Site::new();
    let ended = once(site.scene());
    let registered = line(&ended.log, "worker registered");
    for part in [&site.taskcluster.url(), POOL, GROUP, WORKER, "credentials_expire="] {
        assert!(registered.contains(part), "no {part} in {registered}");
    }
    let count = ended.log.lines().count();
    assert!(count <= 15, "{count} lines:\n{}", ended.log);
}

/// A zip with a program and a folder.
fn zipped() -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.add_directory("bin", SimpleFileOptions::default().unix_permissions(0o750)).unwrap();
    archive.start_file("bin/tool", SimpleFileOptions::default().unix_permissions(0o6711)).unwrap();
    archive.write_all(b"#!/bin/sh\n").unwrap();
    archive.start_file("notes", SimpleFileOptions::default().unix_permissions(0o640)).unwrap();
    archive.write_all(b"some text").unwrap();
    archive.finish().unwrap().into_inner()
}

#[test]
fn files_from_the_pool_and_from_secrets_are_there_before_the_worker() {
    let site = Site::new();
    let path = |name: &str| site.text_path(name);
    let provided = [
        file(&path("deep/in/script.sh"), "a script", b"#!/bin/sh\necho hello\n", "file"),
        file(&path("tools"), "tools", &zipped(), "zip"),
        file(&path("twice"), "first", b"the pool's", "file"),
    ];
    site.set_worker_config(&json!({"command": {"config": {"a": 1}, "files": provided}}));
    let secret = [
        file(&path("key"), "a key", b"hidden-by-all-means", "file"),
        file(&path("twice"), "second", b"the secret's", "file"),
    ];
    site.set_pool_secret(&json!({"files": secret}));
    let scene = site.scene().set("getSecrets", true);
    // The worker itself says that it finds them.
    let found = format!("wait-file {}", path("key"));
    let ended = once(scene.worker(["on now: exit 0", "hello all", &found, "note ready", "wait"]));
    let mut found = String::new();
    for name in ["deep/in/script.sh", "tools/bin", "tools/bin/tool", "tools/notes", "key", "twice"] {
        let about = fs::metadata(site.path(name)).unwrap();
        let content =
            if about.is_file() { fs::read_to_string(site.path(name)).unwrap() } else { String::new() };
        writeln!(found, "{:04o} {name} {content:?}", about.permissions().mode() & 0o7777).unwrap();
    }
    let expected = r##"0755 deep/in/script.sh "#!/bin/sh\necho hello\n"
0750 tools/bin ""
0711 tools/bin/tool "#!/bin/sh\n"
0640 tools/notes "some text"
0600 key "hidden-by-all-means"
0600 twice "the secret's"
"##;
    assert_eq!(found, expected);
    assert!(line(&ended.log, "description=\"a key\"").contains(&path("key")), "{}", ended.log);
    assert_discreet(&ended.log, &["hidden-by-all-means", "aGlkZGVuLWJ5LWFsbC1tZWFucw"]);
}

#[test]
fn files_that_contradict_each_other_start_nothing_leave_nothing_and_are_told_with_the_reason() {
    let site = Site::new();
    let files = [
        file(&site.text_path("good"), "a good one", b"content-is-not-shown", "file"),
        file(&site.text_path("a"), "the first", b"content-is-not-shown", "file"),
        file(&site.text_path("./a//b/"), "the second", b"content-is-not-shown", "file"),
    ];
    site.set_worker_config(&json!({"command": {"config": {}, "files": files}}));
    let ended = site.scene().start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 0), "{}", ended.log);
    let said = line(&ended.log, "start-worker ends:");
    assert!(said.contains("the second") && said.contains("would be a file and a directory"), "{said}");
    assert!(said.contains(&site.text_path("a")), "{said}");
    assert!(!site.path("good").exists() && !site.path("a").exists());
    assert_discreet(&ended.log, &["content-is-not-shown"]);
}

#[test]
fn a_file_that_cannot_be_written_starts_nothing_and_is_named() {
    let site = Site::new();
    let broken = [file("/proc/nowhere/file", "an impossible thing", b"content-is-not-shown", "file")];
    site.set_worker_config(&json!({"command": {"config": {}, "files": broken}}));
    let ended = site.scene().start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 0), "{}", ended.log);
    let said = line(&ended.log, "start-worker ends:");
    assert!(said.contains("/proc/nowhere") && said.contains("an impossible thing"), "{said}");
    assert!(said.contains("(os error 2)"), "why: {said}");
    assert_discreet(&ended.log, &["content-is-not-shown"]);
}
