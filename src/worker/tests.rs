//! Tests of all implementations, against caches that the Go start-worker has written.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::credentials::Credentials;
use crate::run_spec::files::{FileEntry, FileOrigin, ShippedFile};
use crate::run_spec::worker_config::{Source, take_provider_form, take_secret_form};
use crate::run_spec::{Object, Parts, WorkerIdentity, WorkerPoolId};

const GO_STANDALONE: &str = include_str!("../../tests/fixtures/contract/go-cache-standalone.json");
const GO_GOOGLE: &str = include_str!("../../tests/fixtures/contract/go-cache-google.json");

fn object(value: Value) -> Object {
    let Value::Object(object) = value else { panic!("{value} is not an object") };
    object
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The run in a cache of the Go start-worker, except its worker configuration.
fn cached_run(cache: &Value) -> Run {
    let certificate = text(&cache["Credentials"]["certificate"]);
    Run {
        root_url: text(&cache["RootURL"]),
        identity: WorkerIdentity {
            provider_id: text(&cache["ProviderID"]),
            worker_pool_id: WorkerPoolId::parse(&text(&cache["WorkerPoolID"])).unwrap(),
            worker_group: text(&cache["WorkerGroup"]),
            worker_id: text(&cache["WorkerID"]),
        },
        credentials: Credentials {
            client_id: text(&cache["Credentials"]["clientId"]),
            access_token: text(&cache["Credentials"]["accessToken"]).into(),
            certificate: (!certificate.is_empty()).then(|| certificate.into()),
            expires: None,
            obtained: None,
        },
        worker_location: serde_json::from_value(cache["WorkerLocation"].clone()).unwrap(),
        provider_metadata: object(cache["ProviderMetadata"].clone()),
        worker_config: Merged::new(),
        parts: Parts::default(),
        files: Vec::new(),
        registration_secret: None,
        launch_config_id: None,
    }
}

fn standalone_run() -> (Run, Value) {
    let cache: Value = serde_json::from_str(GO_STANDALONE).unwrap();
    let mut run = cached_run(&cache);
    let runner = json!({
        "list": ["a", "b"], "nested": {"x": 1, "big": 12_345_678_901_234_567_u64}, "deploymentId": "d1",
    });
    run.worker_config.merge(object(runner), &Source::RunnerFile);
    (run, cache["WorkerConfig"].clone())
}

fn google_run() -> (Run, Value) {
    let cache: Value = serde_json::from_str(GO_GOOGLE).unwrap();
    let mut run = cached_run(&cache);
    let runner = json!({
        "arr": ["runner"], "nested": {"a": 1, "b": {"from": "runner", "x": null}, "list": [1]},
        "requiredDiskSpaceMegabytes": 1024, "ratio": 0.5,
    });
    run.worker_config.merge(object(runner), &Source::RunnerFile);
    let pool = json!({"genericWorker": {"config": {
        "arr": ["provider"], "deploymentId": "d1", "idleTimeoutSecs": 600, "numberOfTasksToRun": 0,
        "nested": {"b": {"from": "provider"}, "c": true, "list": [2]},
        "workerTypeMetadata": {"machine-setup": {"maintainer": "ops@example.com"}},
    }, "files": []}});
    run.worker_config.merge(take_provider_form(pool, "generic-worker").unwrap().config, &Source::Provider);
    let secret = json!({"config": {"arr": ["secret"], "livelogSecret": "tkyesZuWaHwYOxOcO1-2M2ZBw4BT5dCu"}});
    let name = "worker-pool:demo-provider/demo-pool";
    let taken = take_secret_form(secret, name).unwrap();
    run.worker_config.merge(taken.config, &Source::Secret(name.to_owned()));
    (run, cache["WorkerConfig"].clone())
}

fn settings(implementation: Implementation) -> WorkerSettings {
    WorkerSettings {
        implementation,
        args: Vec::new(),
        env: BTreeMap::new(),
        cwd: None,
        user: None,
        hello_timeout: Duration::from_secs(30),
        restart_in_place: RestartInPlace::Auto,
        oom_score_adj: 0,
    }
}

fn generic_worker() -> WorkerSettings {
    settings(Implementation::GenericWorker {
        path: Some("/usr/local/bin/generic-worker".into()),
        config_path: "/etc/generic-worker.json".into(),
    })
}

fn docker_worker(path: &Path) -> WorkerSettings {
    settings(Implementation::DockerWorker {
        path: path.to_owned(),
        config_path: "/home/ubuntu/worker.cfg".into(),
    })
}

fn command(config: bool, credentials: bool) -> WorkerSettings {
    settings(Implementation::Command {
        path: "my-worker".into(),
        config_path: config.then(|| "/etc/my-worker.json".into()),
        credentials_in_environment: credentials,
    })
}

fn spec(run: &Run, settings: &WorkerSettings) -> LaunchSpec {
    match launch(run, settings).unwrap() {
        Launch::Start(spec) => spec.on_this_host(),
        Launch::Show { .. } => panic!("nothing to start"),
    }
}

fn file_content(spec: &LaunchSpec) -> &str {
    spec.config_file.as_ref().unwrap().content.expose_secret()
}

fn file_object(spec: &LaunchSpec) -> Object {
    serde_json::from_str(file_content(spec)).unwrap()
}

fn environment(spec: &LaunchSpec) -> BTreeMap<&str, &str> {
    spec.env.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect()
}

#[test]
fn generic_worker_gets_what_the_go_program_gave_it_for_google() {
    let (run, expected) = google_run();
    let config = final_config(&run, &generic_worker()).unwrap();
    assert_eq!(Value::Object(config.object().clone()), expected);
}

#[test]
fn generic_worker_gets_what_the_go_program_gave_it_for_standalone_but_for_damaged_numbers() {
    let (run, mut expected) = standalone_run();
    assert_eq!(expected["nested"]["big"], json!(12_345_678_901_234_568_u64));
    expected["nested"]["big"] = json!(12_345_678_901_234_567_u64);
    let config = final_config(&run, &generic_worker()).unwrap();
    assert_eq!(Value::Object(config.object().clone()), expected);
}

#[test]
fn generic_worker_gets_exactly_these_keys() {
    let (mut run, _) = google_run();
    run.worker_config = Merged::new();
    run.provider_metadata.insert("availability-zone".to_owned(), json!("us-east1-b"));
    let config = final_config(&run, &generic_worker()).unwrap();
    let certificate = run.credentials.certificate.as_ref().unwrap().expose_secret();
    let expected = json!({
        "publicIP": "1.2.3.4",
        "privateIP": "192.168.0.1",
        "instanceType": "projects/123/machineTypes/n1-standard-4",
        "instanceID": "4242424242424242424",
        "region": "us-east1",
        "availabilityZone": "us-east1-b",
        "workerLocation": r#"{"cloud":"google","region":"us-east1","zone":"us-east1-b"}"#,
        "workerTypeMetadata": run.provider_metadata,
        "rootURL": "http://tc.example.com",
        "clientId": "worker/google-prov/demo-provider/demo-pool/us-east1/4242424242424242424",
        "accessToken": "tkBWi1CdtHhsSXe3gNRrmI8JtcqfcMeTFXB_AJz9mRDw",
        "certificate": certificate,
        "workerGroup": "us-east1",
        "workerId": "4242424242424242424",
        "provisionerId": "demo-provider",
        "workerType": "demo-pool",
    });
    assert_eq!(Value::Object(config.object().clone()), expected);
    assert!(config.leaves().all(|leaf| *leaf.source == Source::Implementation));
}

#[test]
fn generic_workers_file_never_has_the_runners_own_keys() {
    let (mut run, _) = google_run();
    let layer = json!({"checkForNewDeploymentEverySecs": 1800, "nested": {"deploymentId": "kept"}});
    run.worker_config.merge(object(layer), &Source::Provider);
    let whole = final_config(&run, &generic_worker()).unwrap();
    let file = file_object(&spec(&run, &generic_worker()));
    for key in ["deploymentId", "checkForNewDeploymentEverySecs"] {
        assert!(whole.get(key).is_some(), "{key} is lost to the runner");
        assert!(!file.contains_key(key), "{key} is in the file");
    }
    assert_eq!(file["nested"]["deploymentId"], "kept");
    let mut rest = whole.object().clone();
    rest.retain(|key, _| !["deploymentId", "checkForNewDeploymentEverySecs"].contains(&key.as_str()));
    assert_eq!(file, rest);
}

#[test]
fn a_configuration_file_is_indented_json_with_sorted_keys() {
    let (mut run, _) = standalone_run();
    run.worker_config = Merged::new();
    run.worker_config.merge(object(json!({"zz": 1, "aa": {"z": 1.0, "a": [true]}})), &Source::RunnerFile);
    let spec = spec(&run, &command(true, false));
    let expected = r#"{
  "aa": {
    "a": [
      true
    ],
    "z": 1.0
  },
  "taskcluster": {
    "accessToken": "fake-token",
    "clientId": "c",
    "rootUrl": "https://tc.example.com",
    "workerGroup": "wg",
    "workerId": "wi",
    "workerPoolId": "pp/ww"
  },
  "zz": 1
}
"#;
    assert_eq!(file_content(&spec), expected);
    assert_eq!(spec.config_file.unwrap().path, Path::new("/etc/my-worker.json"));
}

#[test]
fn a_configuration_file_is_private_whatever_it_was() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/on/the/way/config.json");
    let file = ConfigFile { path: path.clone(), content: "{}".into() };
    file.write(None).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    file.write(None).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn generic_worker_is_started_with_its_configuration_and_the_runners_protocol() {
    let (run, _) = standalone_run();
    let spec = spec(&run, &generic_worker());
    assert_eq!(spec.implementation, "generic-worker");
    assert_eq!(spec.program, Path::new("/usr/local/bin/generic-worker"));
    assert_eq!(spec.args, ["run", "--config", "/etc/generic-worker.json", "--with-worker-runner"]);
    assert!(spec.counts_tasks && !spec.disable_reboots);
    let location = r#"{"cloud":"standalone","dataCenter":"dc1"}"#;
    let expected =
        [("TASKCLUSTER_ROOT_URL", "https://tc.example.com"), ("TASKCLUSTER_WORKER_LOCATION", location)];
    assert_eq!(environment(&spec), BTreeMap::from(expected));
}

#[test]
fn the_settings_common_to_all_workers_are_passed_on() {
    let (run, _) = standalone_run();
    let mut settings = generic_worker();
    settings.args = vec!["--extra".to_owned()];
    settings.env = [("A", "1"), ("TASKCLUSTER_ROOT_URL", "elsewhere")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    settings.cwd = Some("/srv".into());
    settings.user = Some("worker".to_owned());
    settings.oom_score_adj = 7;
    let spec = spec(&run, &settings);
    assert_eq!(spec.args.last().unwrap(), "--extra");
    assert_eq!(environment(&spec)["A"], "1");
    assert_eq!(environment(&spec)["TASKCLUSTER_ROOT_URL"], "https://tc.example.com");
    assert_eq!(spec.cwd.as_deref(), Some(Path::new("/srv")));
    assert_eq!(spec.user.as_deref(), Some("worker"));
    assert_eq!((spec.oom_score_adj, spec.hello_timeout), (7, Duration::from_secs(30)));
}

#[test]
fn a_windows_set_up_is_refused_with_the_reason() {
    let (run, _) = standalone_run();
    let windows = settings(Implementation::GenericWorker { path: None, config_path: "c".into() });
    for error in [launch(&run, &windows).unwrap_err(), final_config(&run, &windows).unwrap_err()] {
        assert!(error.to_string().starts_with("worker.path is missing: worker.service"), "{error}");
    }
}

#[test]
fn generic_worker_restarts_in_place_only_where_that_is_known_to_work() {
    let (run, _) = standalone_run();
    let in_place = |config: Value, restart_in_place| {
        let mut run = run.clone();
        run.worker_config.merge(object(config), &Source::Provider);
        spec(&run, &WorkerSettings { restart_in_place, ..generic_worker() }).restart_in_place
    };
    assert_eq!(in_place(json!({"headlessTasks": true}), RestartInPlace::Auto), InPlace::Yes);
    assert_eq!(in_place(json!({"headlessTasks": false}), RestartInPlace::Auto), InPlace::AskVersion);
    assert_eq!(in_place(json!({"headlessTasks": "true"}), RestartInPlace::Auto), InPlace::AskVersion);
    assert_eq!(in_place(json!({}), RestartInPlace::Auto), InPlace::AskVersion);
    assert_eq!(in_place(json!({"headlessTasks": true}), RestartInPlace::No), InPlace::No);
    assert_eq!(in_place(json!({}), RestartInPlace::Yes), InPlace::Yes);
}

#[test]
fn the_other_workers_restart_in_place() {
    let (run, _) = standalone_run();
    for settings in [docker_worker(Path::new("/dw")), command(false, false)] {
        assert_eq!(spec(&run, &settings).restart_in_place, InPlace::Yes);
        let forbidden = WorkerSettings { restart_in_place: RestartInPlace::No, ..settings };
        assert_eq!(spec(&run, &forbidden).restart_in_place, InPlace::No);
        assert!(!spec(&run, &forbidden).counts_tasks);
    }
}

#[test]
fn the_engine_is_read_from_generic_workers_version() {
    let engine = generic_worker::engine_named_in;
    let multiuser =
        "generic-worker (multiuser engine) 106.0.0 [ revision: https://github.com/x/y/commits/abc ]";
    assert_eq!(engine(multiuser), Some("multiuser"));
    assert_eq!(engine("generic-worker (simple engine) 39.2.0\n"), Some("simple"));
    assert_eq!(engine("a wrapper says hello\ngeneric-worker (insecure engine) 60.1.2"), Some("insecure"));
    for doubtful in ["", "generic-worker 16.6.1", "generic-worker ( engine) 1", "(multiuser engine) 106"] {
        assert_eq!(engine(doubtful), None, "{doubtful:?}");
    }
}

#[test]
fn disable_reboots_is_read_from_the_merged_configuration() {
    let (mut run, _) = standalone_run();
    run.worker_config.merge(object(json!({"disableReboots": true})), &Source::Secret("s".to_owned()));
    assert!(spec(&run, &generic_worker()).disable_reboots);
}

#[test]
fn docker_worker_gets_exactly_these_keys() {
    let (mut run, _) = google_run();
    run.worker_config = Merged::new();
    run.worker_config.merge(object(json!({"taskcluster": {"kept": 1}})), &Source::Provider);
    let file = file_object(&spec(&run, &docker_worker(Path::new("/dw"))));
    let certificate = run.credentials.certificate.as_ref().unwrap().expose_secret();
    let expected = json!({
        "host": "my-worker.c.proj-1234.internal",
        "publicIp": "1.2.3.4",
        "privateIp": "192.168.0.1",
        "workerNodeType": "projects/123/machineTypes/n1-standard-4",
        "instanceType": "projects/123/machineTypes/n1-standard-4",
        "instanceId": "4242424242424242424",
        "region": "us-east1",
        "workerLocation": r#"{"cloud":"google","region":"us-east1","zone":"us-east1-b"}"#,
        "rootUrl": "http://tc.example.com",
        "taskcluster": {
            "kept": 1,
            "clientId": "worker/google-prov/demo-provider/demo-pool/us-east1/4242424242424242424",
            "accessToken": "tkBWi1CdtHhsSXe3gNRrmI8JtcqfcMeTFXB_AJz9mRDw",
            "certificate": certificate,
        },
        "workerId": "4242424242424242424",
        "workerGroup": "us-east1",
        "provisionerId": "demo-provider",
        "workerType": "demo-pool",
    });
    assert_eq!(Value::Object(file), expected);
}

#[test]
fn docker_worker_shuts_idle_instances_of_aws_provisioner_down() {
    let (mut run, _) = google_run();
    run.identity.provider_id = "aws-provisioner".to_owned();
    let file = file_object(&spec(&run, &docker_worker(Path::new("/dw"))));
    assert_eq!(file["shutdown"], json!({"enabled": true, "afterIdleSeconds": 900}));
}

#[test]
fn docker_worker_is_started_by_its_releases_script_or_else_by_node() {
    let (run, _) = standalone_run();
    let release = tempfile::tempdir().unwrap();
    let clone = spec(&run, &docker_worker(release.path()));
    let script = release.path().join("src/bin/worker.js").display().to_string();
    assert_eq!(clone.program, Path::new("node"));
    assert_eq!(clone.args, [&script, "--host", "worker-runner", "production"]);

    std::fs::create_dir(release.path().join("bin")).unwrap();
    std::fs::write(release.path().join("bin/docker-worker"), "").unwrap();
    let released = spec(&run, &docker_worker(release.path()));
    assert_eq!(released.program, release.path().join("bin/docker-worker"));
    assert_eq!(released.args, ["--host", "worker-runner", "production"]);

    for spec in [clone, released] {
        assert_eq!(environment(&spec)["DOCKER_WORKER_CONFIG"], "/home/ubuntu/worker.cfg");
        assert_eq!(environment(&spec).len(), 3);
    }
}

#[test]
fn a_certificate_of_older_credentials_does_not_stay() {
    let (mut run, _) = standalone_run();
    let stale = json!({"certificate": "old", "taskcluster": {"certificate": "old"}});
    run.worker_config.merge(object(stale), &Source::Cache);
    let generic = file_object(&spec(&run, &generic_worker()));
    assert!(!generic.contains_key("certificate"));
    for settings in [docker_worker(Path::new("/dw")), command(true, false)] {
        let file = file_object(&spec(&run, &settings));
        assert_eq!(file["taskcluster"].get("certificate"), None);
    }
}

#[test]
fn a_command_finds_its_credentials_in_the_environment_only_where_asked_for() {
    let (run, _) = google_run();
    let without = spec(&run, &command(false, false));
    assert!(without.config_file.is_none() && without.args.is_empty());
    assert!(environment(&without).keys().all(|name| !name.contains("TOKEN") && !name.contains("CERT")));
    let with = spec(&run, &command(false, true));
    let environment = environment(&with);
    let certificate = run.credentials.certificate.as_ref().unwrap().expose_secret();
    assert_eq!(environment["TASKCLUSTER_CLIENT_ID"], run.credentials.client_id);
    assert_eq!(environment["TASKCLUSTER_ACCESS_TOKEN"], run.credentials.access_token.expose_secret());
    assert_eq!(environment["TASKCLUSTER_CERTIFICATE"], certificate);
}

const KILLED_CHILD: &str = "the signal 9 of a child, through a wrapper";

#[test]
fn every_exit_of_generic_worker_has_its_class_and_meaning() {
    use ExitClass::{BadConfiguration, Crash, Done, Idle, Interrupted, Reboot, Unfit};
    let (run, _) = standalone_run();
    let explain = spec(&run, &generic_worker()).explain;
    for (code, class, meaning) in [
        (0, Done, "tasks complete"),
        (1, Crash, "failed"),
        (64, BadConfiguration, "cannot load its configuration"),
        (67, Reboot, "reboot required"),
        (68, Idle, "idle for too long"),
        (69, Unfit, "internal error, or this host is not fit for tasks"),
        (70, Done, "worker-manager told it to stop"),
        (71, Interrupted, "stopped (interrupted)"),
        (72, Done, "shut down (graceful termination done)"),
        (73, BadConfiguration, "invalid configuration"),
        (77, BadConfiguration, "cannot secure its configuration"),
        (78, Crash, "cannot connect its protocol pipe"),
        (82, BadConfiguration, "no signing key"),
    ] {
        let status = ExitStatus::Code(code);
        assert_eq!(explain(status), Exit { status, class, meaning });
    }
    let through_a_wrapper = explain(ExitStatus::Code(137));
    assert_eq!((through_a_wrapper.class, through_a_wrapper.meaning), (Crash, KILLED_CHILD));
    assert_eq!(explain(ExitStatus::Signal(libc::SIGTERM)).class, Interrupted);
    assert_eq!(explain(ExitStatus::Signal(libc::SIGINT)).class, Interrupted);
    assert_eq!(explain(ExitStatus::Signal(libc::SIGKILL)).class, Crash);
    assert_eq!(explain(ExitStatus::Signal(libc::SIGSEGV)).class, Crash);
    assert_eq!(explain(ExitStatus::Code(67)).to_string(), "exit code 67: reboot required");
}

#[test]
fn every_other_workers_exit_is_classified_plainly() {
    let (run, _) = standalone_run();
    for settings in [docker_worker(Path::new("/dw")), command(false, false)] {
        let explain = spec(&run, &settings).explain;
        let class = |status| explain(status).class;
        assert_eq!(class(ExitStatus::Code(0)), ExitClass::Done);
        assert_eq!(class(ExitStatus::Code(67)), ExitClass::Reboot);
        for code in [1, 64, 68, 70, 71, 72, 73, 77, 78, 82, 137, 255] {
            assert_eq!(class(ExitStatus::Code(code)), ExitClass::Crash, "{code}");
        }
        let meaning = |code| explain(ExitStatus::Code(code)).meaning;
        assert_eq!(
            (meaning(137), meaning(192)),
            (KILLED_CHILD, "the signal 64 of a child, through a wrapper")
        );
        assert_eq!([128, 193, 255].map(meaning), ["failed"; 3]);
        assert_eq!(class(ExitStatus::Signal(libc::SIGTERM)), ExitClass::Interrupted);
        assert_eq!(class(ExitStatus::Signal(libc::SIGINT)), ExitClass::Interrupted);
        assert_eq!(class(ExitStatus::Signal(libc::SIGABRT)), ExitClass::Crash);
    }
}

#[test]
fn a_dummy_run_shows_everything_but_secrets() {
    let (mut run, _) = standalone_run();
    run.credentials.certificate = Some("the-certificate".into());
    run.credentials.expires = Some("2026-11-27T18:17:47.967Z".parse().unwrap());
    let layer = json!({"fromSecret": {"a": "hush", "n": 5, "e": {}}, "list": ["hush"]});
    run.worker_config.merge(object(layer), &Source::Secret("s".to_owned()));
    let holder = json!({"url": "https://c:fake-token@example.com", "on": {}, "odd key": []});
    run.worker_config.merge(object(holder), &Source::Provider);
    let entry = |path: &str| FileEntry {
        description: "a tool".to_owned(),
        path: path.to_owned(),
        content: "aGVsbG8=".to_owned(),
        encoding: "base64".to_owned(),
        format: "file".to_owned(),
    };
    let files = [
        ShippedFile { entry: entry("/public"), origin: FileOrigin::Provider },
        ShippedFile { entry: entry("/private"), origin: FileOrigin::Secret },
    ];
    let dummy = settings(Implementation::Dummy { show_secrets: false });
    assert!(matches!(launch(&run, &dummy).unwrap(), Launch::Show { secrets: false }));
    let registration = SecretString::from("registration-secret");
    let shown = |secrets| {
        let registration_secret = Some(&registration);
        dummy::show(&dummy::Shown { run: &run, registration_secret, files: &files, secrets })
    };
    assert_eq!(shown(false), include_str!("../../tests/fixtures/dummy-run.yml"));
    let yaml: Value = serde_yaml::from_str(&shown(false)).unwrap();
    assert_eq!(yaml["WorkerConfig"]["nested"]["big"], json!(12_345_678_901_234_567_u64));
    let with_secrets = shown(true);
    assert!(!with_secrets.contains("masked"));
    let yaml: Value = serde_yaml::from_str(&with_secrets).unwrap();
    assert_eq!(yaml["WorkerConfig"], Value::Object(run.worker_config.object().clone()));
    assert_eq!(yaml["Credentials"]["accessToken"], "fake-token");
    assert_eq!(yaml["RegistrationSecret"], "registration-secret");
    assert_eq!(yaml["Files"][1]["content"], "aGVsbG8=");
}

#[test]
fn a_dummy_run_has_the_keys_of_the_cache_file() {
    let (run, _) = standalone_run();
    let shown = dummy::Shown { run: &run, registration_secret: None, files: &[], secrets: true };
    let Value::Object(mut cache) = serde_json::from_str(GO_STANDALONE).unwrap() else { panic!() };
    let mut yaml: Object = serde_yaml::from_str(&dummy::show(&shown)).unwrap();
    // The worker implementation has set further keys there; an empty list of files is null there.
    for object in [&mut cache, &mut yaml] {
        object.remove("WorkerConfig");
        object.remove("Files");
    }
    assert_eq!(yaml, cache);
}
