//! The worker configuration, merged from its sources, with the source of each leaf.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::Object;
use crate::redact;

mod forms;
#[cfg(test)]
mod forms_tests;
mod json;
#[cfg(test)]
mod tests;

pub use forms::{FormError, FormWarning, Taken, find_provider_config, take_provider_form, take_secret_form};
pub(in crate::run_spec) use json::kind_in_words;
pub use json::parse_outside_json;

/// The source of a leaf of the worker configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// `workerConfig` of the runner configuration.
    RunnerFile,
    /// A complete configuration that the Go start-worker cached: the parts of the runner file, the provider and the
    /// secrets cannot be separated.
    Cache,
    /// The provider: the `workerConfig` that a registration returns, or user-data.
    Provider,
    /// The secret of this name.
    Secret(String),
    /// The worker implementation: credentials, identity.
    Implementation,
}

impl Source {
    /// Returns true if every value from this source must be treated as a secret, whatever its key is.
    pub fn holds_secrets(&self) -> bool {
        matches!(self, Self::Secret(_) | Self::Cache)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RunnerFile => f.write_str("runner file"),
            Self::Cache => f.write_str("cached run"),
            Self::Provider => f.write_str("provider"),
            Self::Secret(name) => write!(f, "secret {name}"),
            Self::Implementation => f.write_str("start-worker"),
        }
    }
}

/// A merged worker configuration: an object, and the source of each of its leaves.
///
/// Merging `a` then `b`: two objects merge key by key, two arrays are concatenated (`a`'s items, then `b`'s), otherwise
/// `b` wins, `null` included.
#[derive(Clone, Default)]
pub struct Merged {
    object: Object,
    origins: Origins,
}

/// The origins of an object's values. At every level, it has exactly the object's keys.
type Origins = BTreeMap<String, Origin>;

/// The source of a value, in the shape of the value.
#[derive(Debug, Clone)]
enum Origin {
    Leaf(Source),
    /// The first source of the array (its source while it is empty), then its items.
    Array(Source, Vec<Origin>),
    /// The first source of the object (its source while it is empty), then its values.
    Object(Source, Origins),
}

impl Origin {
    fn of(value: &Value, source: &Source) -> Self {
        match value {
            Value::Array(items) => {
                Self::Array(source.clone(), items.iter().map(|item| Self::of(item, source)).collect())
            }
            Value::Object(object) => {
                let children = object.iter().map(|(key, value)| (key.clone(), Self::of(value, source)));
                Self::Object(source.clone(), children.collect())
            }
            _ => Self::Leaf(source.clone()),
        }
    }
}

/// A value without nested values, and its source. Empty objects and empty arrays are leaves, too.
#[derive(Debug, Clone)]
pub struct Leaf<'a> {
    /// The path: `nested.list[0]`. A key that would be ambiguous is quoted.
    pub path: String,
    /// The innermost key of the path: `list` for `nested.list[0]`.
    pub key: &'a str,
    pub value: &'a Value,
    pub source: &'a Source,
}

/// The merge of two arrays.
#[derive(Clone, Copy)]
enum Arrays {
    Concatenate,
    /// Concatenate, unless the first array begins with all items of the second and therefore already contains them.
    ConcatenateOnce,
}

impl Merged {
    pub fn new() -> Self {
        Self::default()
    }

    /// Merges `layer` over the existing values.
    pub fn merge(&mut self, layer: Object, source: &Source) {
        merge_objects((&mut self.object, &mut self.origins), layer, source, Arrays::Concatenate);
    }

    /// Merges `layer` over a complete configuration that may already contain it: an array that begins with the layer's
    /// items is not changed, so that arrays do not grow at every boot. For a configuration that the Go start-worker
    /// cached.
    pub fn merge_over_whole(&mut self, layer: Object, source: &Source) {
        merge_objects((&mut self.object, &mut self.origins), layer, source, Arrays::ConcatenateOnce);
    }

    /// Sets `path` to `value`, with the worker implementation as source, and replaces the existing value. A value on
    /// the way that is not an object becomes one. An empty path changes nothing.
    pub fn set(&mut self, path: &[&str], value: Value) {
        set_at((&mut self.object, &mut self.origins), path, value);
    }

    /// Removes the value at `path`.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, way) = path.split_last()?;
        let (mut object, mut origins) = (&mut self.object, &mut self.origins);
        for key in way {
            let (Value::Object(inner), Origin::Object(_, children)) =
                (object.get_mut(*key)?, origins.get_mut(*key)?)
            else {
                return None;
            };
            (object, origins) = (inner, children);
        }
        origins.remove(*last);
        object.remove(*last)
    }

    /// The value of a top-level key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key)
    }

    pub fn object(&self) -> &Object {
        &self.object
    }

    /// All leaves, in the order of their keys.
    pub fn leaves(&self) -> impl Iterator<Item = Leaf<'_>> {
        let mut leaves = Vec::new();
        for ((key, value), origin) in self.object.iter().zip(self.origins.values()) {
            collect_leaves(key_path("", key), key, (value, origin), &mut leaves);
        }
        leaves.into_iter()
    }

    /// Copies the object with each leaf replaced by the result of `change`, for masking.
    pub fn map_leaves(&self, mut change: impl FnMut(&Leaf<'_>) -> Value) -> Object {
        let mut object = self.object.clone();
        for ((key, value), origin) in object.iter_mut().zip(self.origins.values()) {
            replace_leaves(key_path("", key), key, (value, origin), &mut change);
        }
        object
    }
}

impl Merged {
    /// Copies the configuration with a mask in place of each leaf that is or may be secret: values from secrets, values
    /// that contain one of the `known` secrets, and strings whose key names a secret.
    #[must_use]
    pub fn masked(&self, known: &[&str]) -> Self {
        let mut object = Value::Object(self.map_leaves(|leaf| {
            if leaf.source.holds_secrets() { Value::from(redact::MASK) } else { leaf.value.clone() }
        }));
        redact::mask_by_key(&mut object);
        redact::mask_known(&mut object, known);
        let Value::Object(object) = object else { return Self::new() };
        Self { object, origins: self.origins.clone() }
    }
}

/// Shows only the number of keys, because the values contain secrets.
impl fmt::Debug for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Merged({} keys)", self.object.len())
    }
}

fn merge_objects(into: (&mut Object, &mut Origins), layer: Object, source: &Source, arrays: Arrays) {
    let (object, origins) = into;
    for (key, value) in layer {
        if let (Some(old), Some(origin)) = (object.get_mut(&key), origins.get_mut(&key)) {
            merge_values((old, origin), value, source, arrays);
        } else {
            origins.insert(key.clone(), Origin::of(&value, source));
            object.insert(key, value);
        }
    }
}

fn merge_values(into: (&mut Value, &mut Origin), value: Value, source: &Source, arrays: Arrays) {
    match (into, value) {
        ((Value::Object(old), Origin::Object(_, children)), Value::Object(layer)) => {
            merge_objects((old, children), layer, source, arrays);
        }
        ((Value::Array(old), Origin::Array(_, origins)), Value::Array(items)) => {
            if matches!(arrays, Arrays::Concatenate) || !old.starts_with(&items) {
                origins.extend(items.iter().map(|item| Origin::of(item, source)));
                old.extend(items);
            }
        }
        ((old, origin), value) => {
            *origin = Origin::of(&value, source);
            *old = value;
        }
    }
}

fn set_at(into: (&mut Object, &mut Origins), path: &[&str], value: Value) {
    let source = Source::Implementation;
    let (object, origins) = into;
    match path {
        [] => {}
        [key] => {
            origins.insert((*key).to_owned(), Origin::of(&value, &source));
            object.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            if !matches!(object.get(*key), Some(Value::Object(_))) {
                object.insert((*key).to_owned(), Value::Object(Object::new()));
                origins.insert((*key).to_owned(), Origin::Object(source, Origins::new()));
            }
            if let (Some(Value::Object(inner)), Some(Origin::Object(_, children))) =
                (object.get_mut(*key), origins.get_mut(*key))
            {
                set_at((inner, children), rest, value);
            }
        }
    }
}

fn collect_leaves<'a>(path: String, key: &'a str, at: (&'a Value, &'a Origin), leaves: &mut Vec<Leaf<'a>>) {
    match at {
        (Value::Object(object), Origin::Object(_, origins)) if !object.is_empty() => {
            for ((key, value), origin) in object.iter().zip(origins.values()) {
                collect_leaves(key_path(&path, key), key, (value, origin), leaves);
            }
        }
        (Value::Array(items), Origin::Array(_, origins)) if !items.is_empty() => {
            for (index, item) in items.iter().zip(origins).enumerate() {
                collect_leaves(item_path(&path, index), key, item, leaves);
            }
        }
        (value, Origin::Leaf(source) | Origin::Array(source, _) | Origin::Object(source, _)) => {
            leaves.push(Leaf { path, key, value, source });
        }
    }
}

fn replace_leaves(
    path: String,
    key: &str,
    at: (&mut Value, &Origin),
    change: &mut impl FnMut(&Leaf<'_>) -> Value,
) {
    match at {
        (Value::Object(object), Origin::Object(_, origins)) if !object.is_empty() => {
            for ((key, value), origin) in object.iter_mut().zip(origins.values()) {
                replace_leaves(key_path(&path, key), key, (value, origin), change);
            }
        }
        (Value::Array(items), Origin::Array(_, origins)) if !items.is_empty() => {
            for (index, item) in items.iter_mut().zip(origins).enumerate() {
                replace_leaves(item_path(&path, index), key, item, change);
            }
        }
        (value, Origin::Leaf(source) | Origin::Array(source, _) | Origin::Object(source, _)) => {
            *value = change(&Leaf { path, key, value, source });
        }
    }
}

/// Longer keys are truncated in paths, which are for people.
const LONGEST_KEY: usize = 80;
/// A path of this many bytes is not extended: the paths of a million leaves would fill the memory.
const LONGEST_PATH: usize = 1_000;

fn key_path(parent: &str, key: &str) -> String {
    if parent.len() > LONGEST_PATH {
        return parent.to_owned();
    }
    let cut = key.char_indices().nth(LONGEST_KEY).map(|(end, _)| key.split_at(end).0);
    let plain =
        !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | ':'));
    let key = match cut {
        Some(cut) => format!("{cut:?}…"),
        None if plain => key.to_owned(),
        None => format!("{key:?}"),
    };
    if parent.is_empty() { key } else { format!("{parent}.{key}") }
}

fn item_path(parent: &str, index: usize) -> String {
    if parent.len() > LONGEST_PATH { parent.to_owned() } else { format!("{parent}[{index}]") }
}
