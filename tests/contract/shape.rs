//! Compares an answer with a recorded one: everything but times, random ids and secrets.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

/// The differences between an answer and the recorded one; empty if there are none.
pub(crate) fn differences(recorded: &Value, answered: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("body", recorded, answered, &mut found);
    found
}

fn compare(place: &str, recorded: &Value, answered: &Value, found: &mut Vec<String>) {
    match (recorded, answered) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
            for key in keys {
                let place = format!("{place}.{key}");
                match (ours.get(key), theirs.get(key)) {
                    (Some(recorded), Some(answered)) => compare(&place, recorded, answered, found),
                    (Some(_), None) => found.push(format!("{place} is missing")),
                    _ => found.push(format!("{place} is too much")),
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => elements(place, ours, theirs, found),
        (Value::String(recorded), Value::String(answered)) => strings(place, recorded, answered, found),
        _ if recorded == answered => {}
        _ => found.push(format!("{place} is {answered}, was {recorded}")),
    }
}

/// Lists have no order and any length; but each element must have its like in the other list.
fn elements(place: &str, recorded: &[Value], answered: &[Value], found: &mut Vec<String>) {
    let without_like = |these: &[Value], those: &[Value]| {
        these.iter().find(|one| !those.iter().any(|other| differences(one, other).is_empty())).cloned()
    };
    if let Some(lost) = without_like(recorded, answered) {
        found.push(format!("{place} has nothing like {lost}"));
    }
    if let Some(new) = without_like(answered, recorded) {
        found.push(format!("{place} has {new}, which is like nothing recorded"));
    }
}

fn strings(place: &str, recorded: &str, answered: &str, found: &mut Vec<String>) {
    if place.ends_with(".certificate") {
        certificates(place, recorded, answered, found);
        return;
    }
    let (ours, theirs) = (masked(recorded), masked(answered));
    if ours != theirs {
        found.push(format!("{place} is\n{theirs}\nwas\n{ours}"));
    }
}

/// A certificate's keys come in the recorded order; its scopes are the recorded ones.
fn certificates(place: &str, recorded: &str, answered: &str, found: &mut Vec<String>) {
    let parse = |text| serde_json::from_str::<Value>(text).expect("JSON");
    let (ours, theirs) = (parse(recorded), parse(answered));
    if ours["scopes"] != theirs["scopes"] {
        found.push(format!("{place} has the scopes {}", theirs["scopes"]));
    }
    for (key, value) in ours.as_object().expect("an object") {
        let kind = std::mem::discriminant(value);
        if std::mem::discriminant(&theirs[key]) != kind {
            found.push(format!("{place}: {key} is {}", theirs[key]));
        }
        if matches!(key.as_str(), "seed" | "signature") {
            let length = |value: &Value| value.as_str().map(str::len);
            // The recording's made-up ones keep the length.
            if length(value) != length(&theirs[key]) {
                found.push(format!("{place}: {key} has the wrong length"));
            }
        }
    }
    if keys(recorded) != keys(answered) {
        found.push(format!("{place} has its keys in another order: {:?}", keys(answered)));
    }
    let life = |certificate: &Value| certificate["expiry"].as_i64().zip(certificate["start"].as_i64());
    let (our, their) = (life(&ours).expect("times"), life(&theirs).expect("times"));
    // Start and expiry are computed one after the other.
    if ((our.0 - our.1) - (their.0 - their.1)).abs() > 1000 {
        found.push(format!("{place} lasts {} ms, was {} ms", their.0 - their.1, our.0 - our.1));
    }
}

/// A flat object's keys in their order.
fn keys(text: &str) -> Vec<&str> {
    text.split('"').zip(text.split('"').skip(1)).filter(|(_, rest)| !rest.is_empty()).fold(
        Vec::new(),
        |mut keys, (word, after)| {
            if after.starts_with(':') {
                keys.push(word);
            }
            keys
        },
    )
}

/// The text with the parts masked that differ from call to call: times, incidents, hashes, secrets, random ids.
fn masked(text: &str) -> String {
    let mut before = "";
    let words = text.split_inclusive([' ', '\n']).map(|whole| {
        let word = whole.trim_end_matches([' ', '\n', '.']);
        let hides = word.parse::<Timestamp>().is_ok()
            || before == "incidentId"
            || (before == "hash:" && word.ends_with('='))
            || word.starts_with("http://")
            || is_random(text, word);
        before = word;
        if hides { whole.replacen(word, "…", 1) } else { whole.to_owned() }
    });
    words.collect()
}

/// Secrets, tokens and ids: the whole text is one word of their length.
fn is_random(text: &str, word: &str) -> bool {
    let letters = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    text == word && letters && matches!(word.len(), 22 | 43 | 44)
}
