//! Answers of metadata services: read, or refused by an error that says where and shows no value that may be secret.

use std::collections::BTreeSet;

use secrecy::ExposeSecret;
use serde_json::Value;
use start_worker::provider::ProviderError;
use start_worker::provider::aws::InstanceDocument;
use start_worker::provider::aws_provisioner::UserData;
use start_worker::provider::azure::{Instance, attestation};
use start_worker::provider::google::zone_and_region;
use start_worker::provider::interruption::azure::Events;
use start_worker::provider::launched::Launched;
use start_worker::provider::spot::Spot;
use start_worker::run_spec::WorkerPoolId;

const URL: &str = "http://169.254.169.254/answer";

/// Stands in these inputs for whatever is secret.
const SECRET: &str = "hunter2hunter2hunter2";

const MACHINE: &str = "vm-1";

/// Reads one answer as each of the documents. The lines are the successive answers of repeated requests.
pub fn check(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let value: Option<Value> = serde_json::from_str(text).ok();
    launched(text, value.as_ref());
    if let Some(document) = read(InstanceDocument::parse(URL.to_owned(), text), value.as_ref()) {
        let value = value.as_ref().unwrap();
        assert_eq!(value["instanceId"], document.instance_id);
        assert!(
            [&document.instance_id, &document.region, &document.availability_zone]
                .iter()
                .all(|part| !part.is_empty())
        );
        assert_eq!(document.image.as_deref(), value["imageId"].as_str().filter(|image| !image.is_empty()));
    }
    if let Some(instance) = read(Instance::parse(URL, text), value.as_ref()) {
        let value = value.as_ref().unwrap();
        assert_eq!(value["compute"]["name"], instance.identity.worker_id);
        assert_eq!(value["compute"]["location"], instance.region);
        root_url(&instance.root_url);
        pool(&instance.identity.worker_pool_id);
        assert!(instance.metadata.values().all(|value| value.as_str().is_some_and(|text| !text.is_empty())));
    }
    if let Some(signature) = read(attestation(URL.to_owned(), text), value.as_ref()) {
        assert_eq!(value.as_ref().unwrap()["signature"], signature.expose_secret());
    }
    provisioner(text, value.as_ref());
    if let Some((zone, region)) = zone_and_region(text) {
        assert!(text.ends_with(zone) && zone.starts_with(region) && zone.len() > region.len());
        assert!(!zone.contains('/'));
    }
    for spot in [Spot::from_instance_action(text), Spot::from_termination_time(text)].into_iter().flatten() {
        assert_eq!(spot.ends(), spot.action != "stop" && spot.action != "hibernate");
    }
    events(text);
}

/// An error names the place, on one line, and no secret that stands under a key.
fn read<T>(result: Result<T, ProviderError>, value: Option<&Value>) -> Option<T> {
    let error = match result {
        Ok(read) => return Some(read),
        Err(error) => error.to_string(),
    };
    assert!(error.starts_with(URL) && !error.contains('\n'), "{error:?}");
    assert!(
        !error.contains(SECRET) || value.is_some_and(|value| !secrets_are_in_their_places(value)),
        "{error}"
    );
    None
}

fn secrets_are_in_their_places(value: &Value) -> bool {
    let mut rest = value.clone();
    for place in [
        "/securityToken",
        "/data/genericWorker/config/accessToken",
        "/data/accessToken",
        "/signature",
        "/data",
    ] {
        if let Some(secret) = rest.pointer_mut(place).filter(|secret| secret.is_string()) {
            *secret = Value::Null;
        }
    }
    !rest.to_string().contains(SECRET)
}

fn root_url(url: &str) {
    assert!(url.starts_with("https://") || url.starts_with("http://"));
    assert!(!url.ends_with('/'));
}

fn pool(pool: &WorkerPoolId) {
    assert_eq!(format!("{}/{}", pool.provisioner_id(), pool.worker_type()), pool.as_str());
    assert!(!pool.provisioner_id().is_empty() && !pool.worker_type().is_empty());
}

fn launched(text: &str, value: Option<&Value>) {
    let Some(launched) = read(Launched::parse(URL.to_owned(), text), value) else { return };
    let value = value.unwrap();
    root_url(&launched.root_url);
    pool(&launched.worker_pool_id);
    assert_eq!(value["workerPoolId"], launched.worker_pool_id.as_str());
    assert_eq!(value["providerId"], launched.provider_id);
    assert_eq!(value["workerGroup"], launched.worker_group);
    assert!(!launched.provider_id.is_empty() && !launched.worker_group.is_empty());
}

/// The configuration is `data`'s; for generic-worker with its own part in it, and never as a part.
fn provisioner(text: &str, value: Option<&Value>) {
    for implementation in ["generic-worker", "docker-worker"] {
        let Some(said) = read(UserData::parse(URL.to_owned(), text, implementation), value) else { continue };
        root_url(&said.root_url);
        pool(&said.worker_pool_id);
        let value = value.unwrap();
        assert_eq!(value["securityToken"], said.token.expose_secret());
        let shown = format!("{said:?}");
        assert!(!shown.contains(SECRET) || !secrets_are_in_their_places(value) || !text_is_only_token(value));
        let data = value["data"].as_object().cloned().unwrap_or_default();
        for key in data.keys().filter(|key| implementation != "generic-worker" || *key != "genericWorker") {
            assert!(said.config.contains_key(key), "{key}");
        }
        if implementation == "docker-worker" && value["capacity"].is_null() {
            assert_eq!(said.config, data);
        }
    }
}

/// Returns true if the token is the only secret: the rest of the user-data is configuration.
fn text_is_only_token(value: &Value) -> bool {
    !value["data"].to_string().contains(SECRET)
}

/// Each event of this machine is told once, whatever is read again.
fn events(text: &str) {
    let mut events = Events::new(MACHINE);
    for line in text.split('\n') {
        let fine = events.read(line).is_ok();
        let mut told = 0;
        while let Some(notice) = events.next_notice() {
            assert!(["Preempt", "Terminate", "Reboot", "Redeploy"].contains(&&*notice.action));
            assert_eq!(notice.ends, ["Preempt", "Terminate"].contains(&&*notice.action));
            told += 1;
        }
        assert!(fine || told == 0);
        let document: Value = serde_json::from_str(line).unwrap_or_default();
        let all = document["Events"].as_array().into_iter().flatten();
        let ids: BTreeSet<&str> = all.filter_map(|event| event["EventId"].as_str()).collect();
        assert!(told <= ids.len(), "{told} notices of {} events", ids.len());
        assert_eq!(events.read(line).is_ok(), fine);
        assert!(events.next_notice().is_none());
    }
}
