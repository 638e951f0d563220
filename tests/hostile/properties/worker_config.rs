//! Layers of worker configuration: the last one wins, arrays grow, numbers keep their digits, each leaf knows its source.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;
use start_worker::redact::MASK;
use start_worker::run_spec::worker_config::{
    Merged, Source, find_provider_config, parse_outside_json, take_provider_form, take_secret_form,
};
use start_worker::run_spec::{Object, Parts};

/// Each of the first three lines is a layer.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut layers = Vec::new();
    for line in text.split('\n').take(3) {
        let Ok((value, long)) = parse_outside_json(line) else { return };
        let mut found = Vec::new();
        numbers(&value, serde_json::from_str(line).unwrap(), &mut found);
        assert_eq!(found.len(), long.len(), "{long:?}");
        forms(&value);
        match value {
            Value::Object(object) => layers.push(object),
            _ => return,
        }
    }
    merging(&layers);
}

/// Integers of 64 bits keep their digits, other numbers their value. Those that became floats are collected.
fn numbers(value: &Value, raw: &RawValue, found: &mut Vec<String>) {
    match value {
        Value::Number(number) => {
            let text = raw.get();
            if text.contains(['.', 'e', 'E']) {
                assert_eq!(number.as_f64(), text.parse().ok());
            } else if number.is_f64() && text != "-0" {
                assert!(text.parse::<i64>().is_err() && text.parse::<u64>().is_err());
                found.push(text.to_owned());
            } else if text != "-0" {
                assert_eq!(number.to_string(), text);
            }
        }
        Value::Array(items) => {
            let raw: Vec<&RawValue> = serde_json::from_str(raw.get()).unwrap();
            assert_eq!(raw.len(), items.len());
            items.iter().zip(raw).for_each(|(item, raw)| numbers(item, raw, found));
        }
        Value::Object(object) => {
            let raw: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).unwrap();
            object.iter().for_each(|(key, value)| numbers(value, raw[key], found));
        }
        _ => {}
    }
}

/// Data from a provider or a secret.
fn forms(value: &Value) {
    if let Ok(taken) = take_provider_form(value.clone(), "generic-worker")
        && let Some(config) = find_provider_config(value, "generic-worker")
    {
        assert_eq!(&taken.config, config);
    }
    // An error, or a warning, names keys, and no content of files.
    if let Ok(taken) = take_secret_form(value.clone(), "worker-pool:a/b") {
        let whole = Value::Object(taken.config);
        assert!(
            whole == *value || value.get("config").is_none_or(|config| config.is_null() || *config == whole)
        );
        assert!(taken.warnings.iter().all(|warning| warning.place.starts_with("secret worker-pool:a/b: ")));
    }
}

fn source(index: usize) -> Source {
    match index {
        0 => Source::RunnerFile,
        1 => Source::Provider,
        _ => Source::Secret("s".to_owned()),
    }
}

fn merge<'a>(layers: impl IntoIterator<Item = &'a Object>) -> Merged {
    let mut merged = Merged::new();
    for (index, layer) in layers.into_iter().enumerate() {
        merged.merge(layer.clone(), &source(index));
    }
    merged
}

fn merging(layers: &[Object]) {
    let merged = merge(layers);
    let expected = layers
        .iter()
        .fold(Value::Object(Object::new()), |whole, layer| both(whole, &Value::Object(layer.clone())));
    assert_eq!(Value::Object(merged.object().clone()), expected);
    // Each leaf is in the layer that it is said to be from, and none later says otherwise.
    let leaves: Vec<_> = merged.leaves().collect();
    for leaf in &leaves {
        let from = (0..layers.len()).find(|index| source(*index) == *leaf.source).unwrap();
        assert!(has(&layers[from], leaf.key, leaf.value), "{}", leaf.path);
    }
    assert_eq!(merged.map_leaves(|leaf| leaf.value.clone()), *merged.object());
    // Values from a secret are masked regardless of their names.
    let masked = merged.masked(&[]);
    for (leaf, masked) in leaves.iter().zip(masked.leaves()) {
        assert_eq!(leaf.path, masked.path);
        assert!(!leaf.source.holds_secrets() || masked.value == MASK);
    }
    if let [first, second, third] = layers {
        let later = merge([second, third]);
        if whole_between(first, second, third) {
            assert_eq!(merge([first, later.object()]).object(), merged.object());
        }
        let rest = vec![(Source::Provider, second.clone()), (source(2), third.clone())];
        assert_eq!(Parts::Apart(rest).merge_with(first).object(), merged.object());
    }
    if let Some(first) = layers.first() {
        assert_eq!(merge([&Object::new(), first]).object(), first);
        assert_eq!(merge([first, &Object::new()]).object(), first);
        // A whole that has the runner file's part already does not grow.
        assert_eq!(
            Parts::Whole(merged.object().clone()).merge_with(&Object::new()).object(),
            merged.object()
        );
        assert_eq!(Parts::Whole(first.clone()).merge_with(first).object(), first);
    }
}

/// The rule of `docs/worker-configuration.md`, once more.
fn both(first: Value, second: &Value) -> Value {
    match (first, second) {
        (Value::Object(mut whole), Value::Object(second)) => {
            for (key, value) in second {
                let value = match whole.remove(key) {
                    Some(old) => both(old, value),
                    None => value.clone(),
                };
                whole.insert(key.clone(), value);
            }
            Value::Object(whole)
        }
        (Value::Array(first), Value::Array(second)) => first.iter().chain(second).cloned().collect(),
        (_, second) => second.clone(),
    }
}

/// Returns true if a leaf is anywhere in a layer.
fn has(object: &Object, key: &str, value: &Value) -> bool {
    fn within(at: &Value, value: &Value) -> bool {
        at == value
            || match at {
                Value::Array(items) => items.iter().any(|item| within(item, value)),
                Value::Object(object) => object.values().any(|inner| within(inner, value)),
                _ => false,
            }
    }
    object.iter().any(|(at, inner)| {
        (at == key && within(inner, value))
            || inner.as_object().is_some_and(|inner| has(inner, key, value))
            || within(inner, value)
    })
}

/// Returns true if `second` does not break objects that `first` and `third` have in common; in that case merging is
/// associative.
fn whole_between(first: &Object, second: &Object, third: &Object) -> bool {
    second.iter().all(|(key, middle)| match (first.get(key), middle, third.get(key)) {
        (Some(Value::Object(first)), Value::Object(middle), Some(Value::Object(third))) => {
            whole_between(first, middle, third)
        }
        (Some(Value::Array(_)), Value::Array(_), Some(Value::Array(_))) => true,
        (Some(Value::Object(_)), _, Some(Value::Object(_)))
        | (Some(Value::Array(_)), _, Some(Value::Array(_))) => false,
        _ => true,
    })
}
