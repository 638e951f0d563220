//! Caches: reading and writing preserves them, including unknown keys, and an error reveals no secret.

use std::path::Path;

use secrecy::ExposeSecret;
use serde_json::Value;
use start_worker::run_spec::cache::{self, CacheErrorKind, CachedRun};
use start_worker::run_spec::{Object, Parts};

const FILE: &str = "/var/lib/run.json";

/// Stands in these inputs for whatever is secret.
const SECRET: &str = "hunter2hunter2hunter2";

/// The places of secrets.
const SECRETS: [&str; 5] = [
    "/Credentials/accessToken",
    "/Credentials/certificate",
    "/RegistrationSecret",
    "/WorkerConfig/accessToken",
    "/Files/0/content",
];

/// Reads it, writes it, and reads it again.
pub fn check(data: &[u8]) {
    let value: Option<Value> = serde_json::from_slice(data).ok();
    let hidden = value.as_ref().is_none_or(secrets_are_in_their_places);
    let cached = match cache::parse(Path::new(FILE), data) {
        Ok(cached) => cached,
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(FILE) && !text.contains('\n') && error.kind() == CacheErrorKind::Content);
            assert!(!hidden || !text.contains(SECRET), "{text}");
            return;
        }
    };
    assert!(!hidden || !format!("{cached:?}").contains(SECRET));
    let value = value.unwrap();
    let config: Object = value["WorkerConfig"].as_object().cloned().unwrap();
    let encoded = cached.encode(&config);
    let again = cache::parse(Path::new(FILE), encoded.expose_secret().as_bytes()).unwrap();
    assert_eq!(again.encode(&config).expose_secret(), encoded.expose_secret());
    same(&cached, &again);
    let written: Value = serde_json::from_str(encoded.expose_secret()).unwrap();
    unknown_keys_are_kept(&value, &written);
}

fn same(cached: &CachedRun, again: &CachedRun) {
    let (one, other) = (&cached.run, &again.run);
    assert_eq!(one.root_url, other.root_url);
    assert_eq!(one.identity, other.identity);
    assert_eq!(one.credentials.access_token.expose_secret(), other.credentials.access_token.expose_secret());
    assert_eq!(one.worker_location, other.worker_location);
    assert_eq!(one.provider_metadata, other.provider_metadata);
    assert_eq!(one.files, other.files);
    assert_eq!(one.launch_config_id, other.launch_config_id);
    assert_eq!((cached.stage, &cached.provider_type), (again.stage, &again.provider_type));
    match (&one.parts, &other.parts) {
        (Parts::Apart(one), Parts::Apart(other)) => assert_eq!(one, other),
        (Parts::Whole(one), Parts::Whole(other)) => assert_eq!(one, other),
        _ => panic!("other parts"),
    }
}

/// Keys that the program may take away, or write in another way: those that it knows.
fn unknown_keys_are_kept(read: &Value, written: &Value) {
    const KNOWN: [&str; 10] = [
        "version",
        "stage",
        "providerType",
        "credentialsObtained",
        "layers",
        "whole",
        "fileOrigins",
        "launchConfigId",
        "removed",
        "leaving",
    ];
    for (key, value) in read.as_object().unwrap() {
        // A key that is known is in upper case.
        if key == "Extra" {
            for (key, value) in value.as_object().unwrap().iter().filter(|(key, _)| !KNOWN.contains(&&***key))
            {
                assert_eq!(&written["Extra"][key], value, "Extra.{key}");
            }
        } else if !written[key].is_null() && key.starts_with(|first: char| first.is_ascii_uppercase()) {
            // Written as the Go program writes it.
        } else {
            assert_eq!(&written[key], value, "{key}");
        }
    }
}

/// Returns true if secrets are only in the places of secrets.
fn secrets_are_in_their_places(value: &Value) -> bool {
    let mut rest = value.clone();
    for place in SECRETS {
        if let Some(secret) = rest.pointer_mut(place).filter(|secret| secret.is_string()) {
            *secret = Value::Null;
        }
    }
    !rest.to_string().contains(SECRET)
}
