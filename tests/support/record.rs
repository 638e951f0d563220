//! The test worker's record, in the format that `tests/test_worker/main.rs` describes.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// One line of the record.
#[derive(Debug, Clone)]
pub struct Event(Value);

impl Event {
    /// Reads all complete lines.
    pub fn read(path: &Path) -> Vec<Self> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let complete = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        complete.map(|line| Self(serde_json::from_str(line).unwrap())).collect()
    }

    pub fn name(&self) -> &str {
        self.0["event"].as_str().unwrap()
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.0["pid"].as_i64().unwrap()).unwrap()
    }

    /// A field; null if it is missing.
    pub fn field(&self, name: &str) -> &Value {
        &self.0[name]
    }

    /// A field as text; empty if it is not a string.
    pub fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    /// The time from another event to this one.
    pub fn after(&self, other: &Self) -> Duration {
        let mono = |event: &Self| event.0["mono"].as_u64().unwrap();
        Duration::from_micros(mono(self).saturating_sub(mono(other)))
    }
}

/// The events of this name.
pub fn named<'a>(events: &'a [Event], name: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.name() == name).collect()
}

/// The graceful-terminations with their finish-tasks, in order; other messages by their type.
pub fn messages(events: &[Event]) -> Vec<String> {
    let describe = |event: &&Event| match &event.field("message")["finish-tasks"] {
        Value::Bool(true) => "finish".to_owned(),
        Value::Bool(false) => "now".to_owned(),
        _ => event.text("type").to_owned(),
    };
    named(events, "message").iter().map(describe).collect()
}

/// The signals, in order.
pub fn signals(events: &[Event]) -> Vec<&str> {
    named(events, "signal").iter().map(|event| event.text("signal")).collect()
}
