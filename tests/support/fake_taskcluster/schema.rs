//! Payload checks: the parts of the services' JSON schemas that runners can break.

use serde_json::Value;

/// The faults of a registerWorker payload.
pub(super) fn register_worker(payload: &Value, knows_boot_time: bool) -> Vec<String> {
    let required = ["workerPoolId", "providerId", "workerGroup", "workerId", "workerIdentityProof"];
    let optional: &[&str] = if knows_boot_time { &["systemBootTime"] } else { &[] };
    let mut faults = keys("data", payload, &required, optional);
    faults.extend(strings(payload, &required[..4]));
    if let Some(time) = payload.get("systemBootTime").filter(|_| knows_boot_time)
        && time.as_str().is_none_or(|time| time.parse::<jiff::Timestamp>().is_err())
    {
        faults.push("data/systemBootTime must match format \"date-time\"".to_owned());
    }
    if let Some(proof) = payload.get("workerIdentityProof") {
        faults.extend(identity_proof(proof));
    }
    faults
}

/// A proof has exactly one of four forms. As in the services, a fault is reported for each of them.
fn identity_proof(proof: &Value) -> Vec<String> {
    let place = "data/workerIdentityProof";
    let mut faults = Vec::new();
    let forms: [&[&str]; 4] = [&["token"], &["staticSecret"], &["document", "signature"], &["document"]];
    for form in forms {
        let mut wrong = keys(place, proof, form, &[]);
        if let (["staticSecret"], Some(secret)) = (form, proof["staticSecret"].as_str())
            && !is_secret(secret)
        {
            wrong.push(format!("{place}/staticSecret must match pattern \"^[a-zA-Z0-9_-]{{44}}$\""));
        }
        if wrong.is_empty() {
            return Vec::new();
        }
        faults.extend(wrong);
    }
    faults.push(format!("{place} must match exactly one schema in oneOf"));
    faults
}

/// The faults of a reregisterWorker payload.
pub(super) fn reregister_worker(payload: &Value) -> Vec<String> {
    let required = ["workerPoolId", "workerGroup", "workerId", "secret"];
    let mut faults = keys("data", payload, &required, &[]);
    faults.extend(strings(payload, &required));
    if payload["secret"].as_str().is_some_and(|secret| !is_secret(secret)) {
        faults.push("data/secret must match pattern \"^[a-zA-Z0-9_-]{44}$\"".to_owned());
    }
    faults
}

/// The faults of a reportWorkerError payload.
pub(super) fn report_worker_error(payload: &Value) -> Vec<String> {
    let required = ["workerGroup", "workerId", "kind", "title", "description", "extra"];
    let mut faults = keys("data", payload, &required, &[]);
    faults.extend(strings(payload, &required[..5]));
    for (key, longest) in [("title", 128), ("description", 10_240)] {
        if payload[key].as_str().is_some_and(|text| text.chars().count() > longest) {
            faults.push(format!("data/{key} must NOT have more than {longest} characters"));
        }
    }
    if payload.get("extra").is_some_and(|extra| !extra.is_object()) {
        faults.push("data/extra must be object".to_owned());
    }
    faults
}

/// The faults of a quarantineWorker payload.
pub(super) fn quarantine_worker(payload: &Value) -> Vec<String> {
    let mut faults = keys("data", payload, &["quarantineUntil"], &["quarantineInfo"]);
    faults.extend(strings(payload, &["quarantineUntil", "quarantineInfo"]));
    if payload["quarantineInfo"].as_str().is_some_and(|text| text.chars().count() > 4000) {
        faults.push("data/quarantineInfo must NOT have more than 4000 characters".to_owned());
    }
    faults
}

fn is_secret(text: &str) -> bool {
    text.len() == 44 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// Missing keys, and keys that are not allowed.
fn keys(place: &str, value: &Value, required: &[&str], optional: &[&str]) -> Vec<String> {
    let Some(object) = value.as_object() else { return vec![format!("{place} must be object")] };
    let missing = required.iter().filter(|key| !object.contains_key(**key));
    let mut faults: Vec<String> =
        missing.map(|key| format!("{place} must have required property '{key}'")).collect();
    let unknown =
        object.keys().filter(|key| !required.contains(&key.as_str()) && !optional.contains(&key.as_str()));
    faults.extend(unknown.map(|key| format!("{place} must NOT have additional properties: \"{key}\"")));
    faults
}

fn strings(payload: &Value, keys: &[&str]) -> Vec<String> {
    let wrong = keys.iter().filter(|key| payload.get(**key).is_some_and(|value| !value.is_string()));
    wrong.map(|key| format!("data/{key} must be string")).collect()
}
