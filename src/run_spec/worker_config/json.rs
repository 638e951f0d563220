//! Parses foreign JSON (Taskcluster, metadata, secrets), and reports the numbers that could not keep their form.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::{item_path, key_path};

/// The number of long integers that are reported.
const MOST_TOLD: usize = 20;

/// Parses JSON, and lists the paths of the first integers that do not fit into 64 bits and have therefore become
/// floats. Fails for JSON that is nested more than 128 levels deep, or contains a number that is too large for a float.
pub fn parse_outside_json(text: &str) -> Result<(Value, Vec<String>), serde_json::Error> {
    // Parsed first, because this limits the depth, while the second pass over the raw text does not.
    let value = serde_json::from_str(text)?;
    let mut found = Vec::new();
    look_for_long_integers(serde_json::from_str(text)?, "", &mut found)?;
    Ok((value, found))
}

/// Describes the type of a value, for messages.
pub(in crate::run_spec) fn kind_in_words(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn look_for_long_integers(
    raw: &RawValue,
    path: &str,
    found: &mut Vec<String>,
) -> Result<(), serde_json::Error> {
    if found.len() >= MOST_TOLD {
        return Ok(());
    }
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'{') => {
            for (key, inner) in serde_json::from_str::<BTreeMap<String, &RawValue>>(text)? {
                look_for_long_integers(inner, &key_path(path, &key), found)?;
            }
        }
        Some(b'[') => {
            for (index, inner) in serde_json::from_str::<Vec<&RawValue>>(text)?.into_iter().enumerate() {
                look_for_long_integers(inner, &item_path(path, index), found)?;
            }
        }
        Some(b'-' | b'0'..=b'9') if is_long_integer(text) => found.push(path.to_owned()),
        _ => {}
    }
    Ok(())
}

fn is_long_integer(number: &str) -> bool {
    !number.contains(['.', 'e', 'E']) && number.parse::<i64>().is_err() && number.parse::<u64>().is_err()
}
