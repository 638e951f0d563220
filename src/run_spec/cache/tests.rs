//! Tests of the cache: the Go program's files, our files, and damaged files.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::credentials::Credentials;
use crate::run_spec::files::{FileEntry, FileOrigin, ShippedFile};
use crate::run_spec::worker_config::{Merged, Source};
use crate::run_spec::{Parts, WorkerIdentity, WorkerPoolId};

const GO_STANDALONE: &str = include_str!("../../../tests/fixtures/contract/go-cache-standalone.json");
const GO_GOOGLE: &str = include_str!("../../../tests/fixtures/contract/go-cache-google.json");

fn decoded(text: &str) -> CachedRun {
    decode::decode(text.as_bytes()).unwrap()
}

fn encoded(cached: &CachedRun, final_config: &Object) -> String {
    cached.encode(final_config).expose_secret().to_owned()
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

fn parsed(text: &str) -> Object {
    serde_json::from_str(text).unwrap()
}

/// A cache of ours with every field set.
fn ours() -> CachedRun {
    let mut cached = decoded(GO_GOOGLE);
    cached.provider_type = Some("google".to_owned());
    cached.run.parts = Parts::Apart(vec![
        (Source::Provider, object(json!({"arr": ["provider"], "big": 9_007_199_254_740_993_u64}))),
        (
            Source::Secret("worker-pool:a/b".to_owned()),
            object(json!({"arr": ["secret"], "key": "hush-part"})),
        ),
    ]);
    cached.run.files[1].origin = FileOrigin::Secret;
    cached.run.credentials.obtained = Some("2026-11-23T18:17:47.967Z".parse().unwrap());
    cached.run.launch_config_id = Some("lc-1".to_owned());
    cached
}

fn final_config(cached: &CachedRun) -> Object {
    cached.clone().into_run(&Object::new()).worker_config.object().clone()
}

#[test]
fn a_cache_of_the_go_program_is_a_whole_run() {
    let CachedRun { run, provider_type, stage, leaving, warnings, .. } = decoded(GO_GOOGLE);
    assert_eq!((provider_type, stage, leaving), (None, Stage::Complete, None));
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(run.root_url, "http://tc.example.com");
    assert_eq!(run.identity.provider_id, "google-prov");
    assert_eq!(run.identity.worker_pool_id.as_str(), "demo-provider/demo-pool");
    assert_eq!(
        (run.identity.worker_group.as_str(), run.identity.worker_id.as_str()),
        ("us-east1", "4242424242424242424")
    );
    let expires = run.credentials.expires.unwrap();
    assert_eq!(expires.to_string(), "2026-11-27T18:17:47.967Z");
    assert_eq!(run.credentials.obtained, None);
    assert!(run.credentials.certificate.unwrap().expose_secret().contains("\"expiry\":1795804367966"));
    let secret = run.registration_secret.unwrap();
    assert_eq!(secret.expose_secret(), "tkr_ra4qQJ05vKAKi9B8gCbVktLIhGtSvU9McNFLiwy5");
    assert_eq!(run.worker_location.get("cloud").unwrap(), "google");
    assert_eq!(run.provider_metadata.get("instance-id").unwrap(), "4242424242424242424");
    assert_eq!(run.files.len(), 2);
    assert!(run.files.iter().all(|file| file.origin == FileOrigin::Provider));
    assert!(matches!(&run.parts, Parts::Whole(whole) if whole.contains_key("livelogSecret")));

    let run = decoded(GO_STANDALONE).run;
    assert_eq!(run.credentials.expires, None, "the zero time is never");
    assert!(run.credentials.certificate.is_none() && run.registration_secret.is_none());
    assert!(run.files.is_empty());
}

#[test]
fn the_go_program_finds_in_what_is_written_back_what_it_wrote() {
    for text in [GO_STANDALONE, GO_GOOGLE] {
        let cached = decoded(text);
        let mut written = parsed(&encoded(&cached, &final_config(&cached)));
        let extra = written.remove("Extra").unwrap();
        assert_eq!(written, parsed(text));
        assert_eq!(extra["whole"], parsed(text)["WorkerConfig"]);
    }
}

#[test]
fn ten_cached_starts_leave_the_worker_configuration_as_it_was() {
    for text in [GO_STANDALONE.to_owned(), GO_GOOGLE.to_owned(), encoded(&ours(), &final_config(&ours()))] {
        let mut text = text;
        let runner_files = [
            json!({"arr": ["runner"], "list": ["a", "b"], "nested": {"list": [1]}}),
            json!({"arr": ["other", "one"], "list": ["a"]}),
            json!({}),
        ]
        .map(object);
        let mut first: [Option<String>; 3] = Default::default();
        for start in 0..10 {
            let mut cached = decoded(&text);
            cached.merge(&runner_files[start % 3]);
            let config = cached.run.worker_config.object().clone();
            let shown = serde_json::to_string(&config).unwrap();
            assert_eq!(first[start % 3].get_or_insert_with(|| shown.clone()), &shown, "start {start}");
            text = encoded(&cached, &config);
        }
        assert_ne!(first[0], first[1], "a change in the runner file takes effect");
    }
}

#[test]
fn after_the_go_program_has_written_a_cache_of_ours_it_is_one_of_its_own() {
    let cached = ours();
    let mut written = parsed(&encoded(&cached, &final_config(&cached)));
    written.remove("Extra");
    let read = decoded(&Value::Object(written).to_string());
    assert!(matches!(read.run.parts, Parts::Whole(whole) if whole == final_config(&cached)));
    assert_eq!((read.provider_type, read.leaving), (None, None));
}

#[test]
fn unknown_keys_are_kept() {
    let mut text = parsed(&encoded(&ours(), &final_config(&ours())));
    text.insert("Later".to_owned(), json!({"a": [1, null]}));
    text["Extra"]["new"] = json!([9_007_199_254_740_993_u64]);
    let cached = decoded(&Value::Object(text.clone()).to_string());
    assert_eq!(parsed(&encoded(&cached, &final_config(&ours()))), text);
}

#[test]
fn integers_keep_every_digit_and_longer_ones_are_told() {
    let mut text = parsed(GO_STANDALONE);
    text["WorkerConfig"]["numbers"] =
        json!([9_007_199_254_740_993_u64, u64::MAX, i64::MIN, 1.0, 0.1, 1e24, "12345678901234567890123"]);
    let text = Value::Object(text).to_string();
    let cached = decoded(&text);
    let config = serde_json::to_string(&final_config(&cached)).unwrap();
    let numbers = r#"[9007199254740993,18446744073709551615,-9223372036854775808,1.0,0.1,1e+24,"12345678901234567890123"]"#;
    assert!(config.contains(numbers), "{config}");
    assert!(decoded(&encoded(&cached, &final_config(&cached))).warnings.is_empty());

    let long = decoded(&text.replace("9007199254740993", "100000000000000000000")).warnings;
    insta::assert_snapshot!(long.join("\n"), @"WorkerConfig.numbers[0]: an integer of more than 64 bits, taken as a float that is near it");
}

#[test]
fn what_the_go_program_leaves_empty_may_be_null() {
    let mut text = parsed(GO_STANDALONE);
    text["ProviderMetadata"] = Value::Null;
    text["WorkerLocation"] = Value::Null;
    text["Files"] = json!([]);
    text["Credentials"].as_object_mut().unwrap().remove("certificate");
    let run = decoded(&Value::Object(text).to_string()).run;
    assert!(run.provider_metadata.is_empty() && run.worker_location.is_empty() && run.files.is_empty());
    assert!(run.credentials.certificate.is_none());
}

#[test]
fn a_truncated_cache_is_an_error_at_every_byte() {
    for text in [GO_STANDALONE, GO_GOOGLE, &encoded(&ours(), &final_config(&ours()))] {
        decoded(text);
        for end in 0..text.len() {
            let problem = decode::decode(&text.as_bytes()[..end]).expect_err("half a run");
            assert!(matches!(problem, Problem::Empty | Problem::Truncated(_)), "{end}: {problem}");
        }
    }
}

/// Every value of the text, at every depth, with its path.
fn ways(value: &Value, at: &str, found: &mut Vec<String>) {
    let mut go = |key: String, value: &Value| {
        let way = format!("{at}/{key}");
        ways(value, &way, found);
        found.push(way);
    };
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| go(key.replace('/', "~1"), value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| go(index.to_string(), item)),
        _ => {}
    }
}

#[test]
fn a_value_of_another_kind_is_an_error_that_names_it_and_shows_no_value() {
    let whole: Value = serde_json::from_str(&encoded(&ours(), &final_config(&ours()))).unwrap();
    let mut found = Vec::new();
    ways(&whole, "", &mut found);
    let free = ["/WorkerConfig/", "/ProviderMetadata/", "/config/"];
    let mut refused = 0;
    for way in found.iter().filter(|way| !free.iter().any(|free| way.contains(free))) {
        for other in
            [Value::Null, json!(true), json!(7.5), json!("hush"), json!(["hush"]), json!({"other": ["hush"]})]
        {
            let mut changed = whole.clone();
            *changed.pointer_mut(way).unwrap() = other.clone();
            let Err(problem) = decode::decode(changed.to_string().as_bytes()) else { continue };
            refused += 1;
            let text = problem.to_string();
            let key = way.split('/').nth(1).unwrap();
            assert!(text.starts_with(key) || text.starts_with("Extra"), "{way} = {other}: {text}");
            for secret in ["hush", "tkBWi1Cd", "tkr_ra4q", "tk952e2l", "IyEvYmlu"] {
                assert!(!text.contains(secret), "{way} = {other}: {text}");
            }
        }
    }
    assert!(refused > 150, "{refused}");
}

fn problem(change: impl FnOnce(&mut Object)) -> String {
    let mut text = parsed(&encoded(&ours(), &final_config(&ours())));
    change(&mut text);
    let problem = decode::decode(Value::Object(text).to_string().as_bytes()).unwrap_err();
    CacheError::new(Path::new("/var/run.json"), problem).to_string()
}

#[test]
fn errors_say_what_was_expected_and_found() {
    let texts = [
        problem(|text| text["WorkerPoolID"] = json!("hush")),
        problem(|text| text["WorkerID"] = json!("")),
        problem(|text| drop(text.remove("RootURL"))),
        problem(|text| text["Credentials"]["accessToken"] = json!(["hush"])),
        problem(|text| text["CredentialsExpire"] = json!("tomorrow")),
        problem(|text| text["Files"][1]["content"] = json!(5)),
        problem(|text| text["WorkerLocation"]["zone"] = json!(1)),
        problem(|text| text["Extra"] = json!(null)),
        problem(|text| text["Extra"]["version"] = json!(2)),
        problem(|text| text["Extra"]["stage"] = json!("half")),
        problem(|text| text["Extra"]["fileOrigins"] = json!(["provider"])),
        problem(|text| text["Extra"]["layers"][1]["source"] = json!("hush")),
    ];
    insta::assert_snapshot!(texts.join("\n"), @"
    cannot use the cached run /var/run.json: WorkerPoolID: expected a worker pool ID with a slash, found one without
    cannot use the cached run /var/run.json: WorkerID: expected a string that is not empty, found an empty one
    cannot use the cached run /var/run.json: RootURL is missing, expected a string
    cannot use the cached run /var/run.json: Credentials.accessToken: expected a string, found an array
    cannot use the cached run /var/run.json: CredentialsExpire: expected a time (RFC 3339), found another string
    cannot use the cached run /var/run.json: Files[1].content: expected a string, found a number
    cannot use the cached run /var/run.json: WorkerLocation.zone: expected a string, found a number
    cannot use the cached run /var/run.json: Extra: expected an object, found null
    cannot use the cached run /var/run.json: Extra.version: a newer start-worker wrote it; start that one again
    cannot use the cached run /var/run.json: Extra.stage: expected `registered` or `complete`, found another string
    cannot use the cached run /var/run.json: Extra.fileOrigins: expected one item for each of Files (2), found 1
    cannot use the cached run /var/run.json: Extra.layers[1].source: expected a known source, found another string
    ");
}

#[test]
fn what_is_not_json_is_told_apart() {
    let texts = ["", " \n", "\0\0\0", "[]", "{", "hush", "{} {}", "\u{feff}{}"].map(|text| {
        CacheError::new(Path::new("/var/run.json"), decode::decode(text.as_bytes()).unwrap_err()).to_string()
    });
    insta::assert_snapshot!(texts.join("\n"), @"
    cannot use the cached run /var/run.json: it is empty
    cannot use the cached run /var/run.json: it is empty
    cannot use the cached run /var/run.json: it is not JSON: expected value at line 1 column 1
    cannot use the cached run /var/run.json: the whole: expected an object, found an array
    cannot use the cached run /var/run.json: it is truncated: EOF while parsing an object at line 1 column 1
    cannot use the cached run /var/run.json: it is not JSON: expected value at line 1 column 1
    cannot use the cached run /var/run.json: it is not JSON: trailing characters at line 1 column 4
    cannot use the cached run /var/run.json: it is not JSON: expected value at line 1 column 1
    ");
    assert!(matches!(decode::decode(b"{\"\xff\":1}"), Err(Problem::NotText)));
}

#[test]
fn no_secret_is_shown() {
    let mut cached = ours();
    cached.kept.top.insert("Later".to_owned(), json!("hush-top"));
    cached.merge(&Object::new());
    let shown = format!("{cached:?} {:?}", cached.encode(&final_config(&cached)));
    for secret in ["hush", "tkBWi1Cd", "tkr_ra4q", "tk952e2l", "tkyesZuW", "IyEvYmlu"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    assert!(shown.contains("demo-provider/demo-pool"), "{shown}");
}

fn on_disk(text: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.json");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    (folder, path)
}

#[test]
fn others_may_have_no_access() {
    for mode in [0o644, 0o640, 0o604, 0o620, 0o200] {
        let (_folder, path) = on_disk(GO_GOOGLE, mode);
        let error = read(&path, Access::Refuse).unwrap_err();
        assert_eq!(error.kind(), CacheErrorKind::Permissions, "{mode:o}");
        assert!(error.to_string().contains(&format!("mode is {mode:04o}")), "{error}");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, mode, "nothing is changed");
    }
    for mode in [0o400, 0o600, 0o700] {
        let (_folder, path) = on_disk(GO_GOOGLE, mode);
        assert!(read(&path, Access::Refuse).unwrap().is_some(), "{mode:o}");
    }
    let (_folder, path) = on_disk(GO_GOOGLE, 0o644);
    let looked_at = read(&path, Access::Observe).unwrap().unwrap();
    let shown = looked_at.warnings.join("\n").replace(&path.display().to_string(), "/var/run.json");
    insta::assert_snapshot!(shown, @"cached run /var/run.json: mode is 0644, others have access: chmod it 0600 and rotate the secrets that are in it; until then a start refuses it");
}

#[test]
fn only_a_regular_file_is_a_cache_and_no_file_is_none() {
    let (folder, path) = on_disk(GO_GOOGLE, 0o600);
    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    for path in [link.as_path(), folder.path()] {
        assert_eq!(read(path, Access::Refuse).unwrap_err().kind(), CacheErrorKind::Permissions);
    }
    assert!(read(&folder.path().join("none/run.json"), Access::Refuse).unwrap().is_none());
    assert!(read(&path.join("run.json"), Access::Refuse).unwrap().is_none());
}

#[test]
fn the_advice_fits_the_host() {
    let content = CacheError::new(Path::new("/var/run.json"), Problem::Empty);
    let (_folder, path) = on_disk(GO_GOOGLE, 0o644);
    let permissions = read(&path, Access::Refuse).unwrap_err();
    let lines: Vec<_> = [&content, &permissions]
        .iter()
        .flat_map(|error| [true, false].map(|dynamic| format!("{error}; {}", error.advice(dynamic))))
        .collect();
    let shown = lines.join("\n").replace(&path.display().to_string(), "/var/run.json");
    insta::assert_snapshot!(shown, @"
    cannot use the cached run /var/run.json: it is empty; removing it would not help: this machine has registered already and cannot do so again; replace the machine
    cannot use the cached run /var/run.json: it is empty; remove it to start afresh
    cannot use the cached run /var/run.json: mode is 0644, others have access; chmod it 0600 and rotate the secrets that are in it; do not remove it: this machine has registered already and cannot do so again
    cannot use the cached run /var/run.json: mode is 0644, others have access; chmod it 0600 and rotate the secrets that are in it; or remove it to start afresh
    ");
}

#[test]
fn what_is_written_is_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/deeper/run.json");
    let cached = ours();
    write(&path, &cached.encode(&final_config(&cached))).unwrap();
    for (path, mode) in [("new", 0o700), ("new/deeper", 0o700), ("new/deeper/run.json", 0o600)] {
        let found = std::fs::metadata(folder.path().join(path)).unwrap().mode() & 0o7777;
        assert_eq!(found, mode, "{path}");
    }
    let read = read(&path, Access::Refuse).unwrap().unwrap();
    assert_eq!(read.leaving, cached.leaving);
}

#[test]
fn a_cache_for_another_worker_is_stale() {
    let cached = decoded(GO_STANDALONE);
    let same = Expected {
        root_url: "https://tc.example.com/",
        provider_type: "standalone",
        worker_pool_id: "pp/ww",
        worker_group: "wg",
        worker_id: "wi",
    };
    assert_eq!(cached.mismatch(&same), None);
    let lines = [
        Expected { root_url: "https://other.example.com", ..same },
        Expected { provider_type: "static", ..same },
        Expected { worker_pool_id: "cc/dd", ..same },
        Expected { worker_group: "g2", worker_id: "w2", ..same },
    ]
    .map(|expected| cached.mismatch(&expected).unwrap());
    insta::assert_snapshot!(lines.join("\n"), @"
    written for root URL https://tc.example.com, the runner configuration now says https://other.example.com
    written for provider type standalone, the runner configuration now says static
    written for worker pool pp/ww, the runner configuration now says cc/dd
    written for worker group wg, the runner configuration now says g2; written for worker ID wi, the runner configuration now says w2
    ");
}

#[test]
fn the_provider_type_is_inferred_where_the_go_program_wrote_the_cache() {
    assert_eq!(decoded(GO_STANDALONE).likely_provider_type(), Some("standalone"));
    assert_eq!(decoded(GO_GOOGLE).likely_provider_type(), Some("google"));
    let mut cached = decoded(GO_GOOGLE);
    cached.run.worker_location.insert("cloud".to_owned(), "ours".to_owned());
    assert_eq!(cached.likely_provider_type(), None);
    let expected = Expected {
        root_url: &cached.run.root_url,
        provider_type: "static",
        worker_pool_id: "demo-provider/demo-pool",
        worker_group: "us-east1",
        worker_id: "4242424242424242424",
    };
    assert_eq!(cached.mismatch(&expected), None, "what cannot be told does not differ");
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e300..1e300f64).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Object> {
    prop::collection::btree_map(any::<String>(), any_value(), 0..4).prop_map(|map| map.into_iter().collect())
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    (0..253_370_764_800_000_i64).prop_map(|ms| Timestamp::from_millisecond(ms).unwrap())
}

/// A non-empty text.
fn any_text() -> impl Strategy<Value = String> {
    (any::<char>(), any::<String>()).prop_map(|(first, rest)| format!("{first}{rest}"))
}

fn any_secret() -> impl Strategy<Value = Option<SecretString>> {
    prop::option::of(any_text().prop_map(SecretString::from))
}

fn any_parts() -> impl Strategy<Value = Parts> {
    let source = prop_oneof![Just(Source::Provider), any::<String>().prop_map(Source::Secret)];
    prop_oneof![
        prop::collection::vec((source, any_object()), 0..4).prop_map(Parts::Apart),
        any_object().prop_map(Parts::Whole),
    ]
}

fn any_file() -> impl Strategy<Value = ShippedFile> {
    let origin = prop_oneof![Just(FileOrigin::Provider), Just(FileOrigin::Secret)];
    (any::<[String; 5]>(), origin).prop_map(|([description, path, content, encoding, format], origin)| {
        ShippedFile { entry: FileEntry { description, path, content, encoding, format }, origin }
    })
}

fn any_run() -> impl Strategy<Value = Run> {
    let texts = [any_text(), any_text(), any_text(), any_text(), any_text()];
    let times = (prop::option::of(any_time()), prop::option::of(any_time()));
    let location = prop::collection::btree_map(any::<String>(), any::<String>(), 0..3);
    let secrets = (any_secret(), any_secret(), prop::option::of(any_text()));
    let rest = (location, any_object(), any_parts(), prop::collection::vec(any_file(), 0..3));
    ("[^/]{1,5}/.{1,5}", texts, times, secrets, rest).prop_map(
        |(pool, [provider_id, worker_group, worker_id, client_id, token], times, secrets, rest)| Run {
            root_url: "https://tc.example.com".to_owned(),
            identity: WorkerIdentity {
                provider_id,
                worker_pool_id: WorkerPoolId::parse(&pool).unwrap(),
                worker_group,
                worker_id,
            },
            credentials: Credentials {
                client_id,
                access_token: token.into(),
                certificate: secrets.0,
                expires: times.0,
                obtained: times.1,
            },
            worker_location: rest.0,
            provider_metadata: rest.1,
            worker_config: Merged::new(),
            parts: rest.2,
            files: rest.3,
            registration_secret: secrets.1,
            launch_config_id: secrets.2,
        },
    )
}

fn any_cached() -> impl Strategy<Value = CachedRun> {
    let time = || prop::option::of(any_time());
    let leaving = (any_time(), any::<String>(), time(), time()).prop_map(
        |(at, reason, deregistered, shutdown_requested)| Leaving {
            at,
            reason,
            deregistered,
            shutdown_requested,
        },
    );
    let stage = prop_oneof![Just(Stage::Registered), Just(Stage::Complete)];
    (any_run(), prop::option::of(any_text()), stage, prop::option::of(leaving)).prop_map(
        |(mut run, provider_type, stage, leaving)| {
            if leaving.is_some() {
                // The cache of a machine that leaves contains no files.
                run.files.clear();
            }
            CachedRun { provider_type, stage, leaving, ..CachedRun::new(run, "", Stage::Complete) }
        },
    )
}

/// The parts of a run that its `Debug` hides.
fn hidden(run: &Run) -> impl PartialEq + fmt::Debug {
    let secret = |secret: &Option<SecretString>| secret.as_ref().map(|text| text.expose_secret().to_owned());
    let parts = match &run.parts {
        Parts::Apart(layers) => layers.clone(),
        Parts::Whole(whole) => vec![(Source::Cache, whole.clone())],
    };
    let token = run.credentials.access_token.expose_secret().to_owned();
    (token, secret(&run.credentials.certificate), secret(&run.registration_secret), parts, run.files.clone())
}

proptest! {
    #[test]
    fn what_is_read_is_what_was_written(cached in any_cached(), config in any_object()) {
        let text = encoded(&cached, &config);
        let read = decoded(&text);
        prop_assert_eq!(format!("{read:?}"), format!("{cached:?}"));
        prop_assert_eq!(hidden(&read.run), hidden(&cached.run));
        prop_assert_eq!(encoded(&read, &config), text);
    }

    #[test]
    fn bytes_at_random_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode::decode(&bytes).is_err());
    }

    #[test]
    fn a_few_changed_bytes_are_an_error_or_a_whole_run(
        changes in prop::collection::vec((0..4000_usize, any::<u8>()), 1..4)
    ) {
        let mut bytes = encoded(&ours(), &final_config(&ours())).into_bytes();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(cached) = decode::decode(&bytes) {
            decoded(&encoded(&cached, &Object::new()));
        }
    }

    #[test]
    fn any_json_is_an_error(value in any_value()) {
        prop_assert!(decode::decode(value.to_string().as_bytes()).is_err());
    }
}

#[test]
fn a_machine_that_leaves_has_each_step_in_its_cache_and_nothing_that_the_go_program_can_read() {
    let mut cached = ours();
    let [at, deregistered, shutdown] =
        ["2026-11-24T00:00:00Z", "2026-11-24T00:00:01Z", "2026-11-24T00:01:00Z"]
            .map(|time| time.parse().unwrap());
    let mut leaving = Leaving::new(at, "the worker is done".to_owned());
    for step in 0..3 {
        match step {
            1 => leaving.deregistered = Some(deregistered),
            2 => leaving.shutdown_requested = Some(shutdown),
            _ => {}
        }
        cached.leaving = Some(leaving.clone());
        let text = cached.encode(&final_config(&cached)).expose_secret().to_owned();
        let read = parse(Path::new("cache.json"), text.as_bytes()).unwrap();
        assert_eq!(read.leaving.as_ref(), Some(&leaving));
        assert_eq!(read.has_left(), step == 1, "{step}");
        assert!(!read.how_far_it_has_left().is_empty());
        // `Files` is a list in the Go program: json.Unmarshal fails, and the program ends without a worker.
        let whole: Value = serde_json::from_str(&text).unwrap();
        assert!(whole["Files"].is_string() && !text.contains("hush-file"), "{}", whole["Files"]);
    }
}

#[test]
fn the_mark_of_earlier_versions_says_only_that_the_machine_is_to_leave() {
    let text = ours().encode(&Object::new()).expose_secret().to_owned();
    let mut whole: Value = serde_json::from_str(&text).unwrap();
    whole["Extra"]["removed"] = json!({"at": "2026-11-24T00:00:00.000Z", "reason": "idle"});
    let read = parse(Path::new("cache.json"), whole.to_string().as_bytes()).unwrap();
    let expected = Leaving::new("2026-11-24T00:00:00Z".parse().unwrap(), "idle".to_owned());
    assert_eq!((read.has_left(), read.leaving), (false, Some(expected)));
}
