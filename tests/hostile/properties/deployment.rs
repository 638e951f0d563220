//! A worker pool's definition, whatever it holds: it calls for a drain only where it names others, and not one's own.

use serde_json::Value;
use start_worker::watch::deployment::definition::{Finding, deployment_ids, launch_config_ids};

/// The first line is the id that a worker has, the rest is its pool's `config`.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Some((own, text)) = text.split_once('\n') else { return };
    let Ok(config) = serde_json::from_str::<Value>(text) else { return };
    for implementation in ["generic-worker", "docker-worker"] {
        for ids in [deployment_ids(&config, implementation), launch_config_ids(&config)] {
            // Each is some string of the definition.
            assert!(ids.iter().all(|id| !id.is_empty() && has(&config, id)));
            match Finding::of(own, ids.clone()) {
                Finding::Unknown => assert!(ids.is_empty()),
                Finding::Current => assert!(ids.contains(own)),
                Finding::Replaced(by) => {
                    assert!(!by.is_empty() && !by.contains(own));
                    assert!(by.iter().eq(ids));
                }
            }
        }
    }
}

fn has(value: &Value, id: &str) -> bool {
    match value {
        Value::String(text) => text == id,
        Value::Array(items) => items.iter().any(|item| has(item, id)),
        Value::Object(object) => object.values().any(|value| has(value, id)),
        _ => false,
    }
}
