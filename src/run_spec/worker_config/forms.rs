//! The forms in which providers and secrets supply worker configuration and files.

use std::fmt;

use serde_json::Value;

use super::{item_path, key_path, kind_in_words};
use crate::run_spec::Object;
use crate::run_spec::files::FileEntry;

/// The configuration from a provider or a secret.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// A layer of worker configuration.
    pub config: Object,
    /// Files to write before the worker starts.
    pub files: Vec<FileEntry>,
    /// Probable mistakes.
    pub warnings: Vec<FormWarning>,
}

/// A probable mistake in a worker configuration, and its interpretation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormWarning {
    /// The suspicious key: `workerConfig.genericWorker.configs`, `secret worker-pool:aa/bb: file`.
    pub place: String,
    /// The interpretation of the key.
    pub taken: String,
}

impl fmt::Display for FormWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.taken)
    }
}

/// An unusable worker configuration. The error shows no values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A value has the wrong type.
    #[error("{place} must be {expected}, but is {found}")]
    Kind { place: String, expected: &'static str, found: &'static str },
    /// A file lacks a mandatory key.
    #[error("{place} has no `{key}`{hint}")]
    Missing {
        place: String,
        key: &'static str,
        /// Path and description of the file, if it has them.
        hint: String,
    },
}

/// The keys of other implementations. A pool with one of them was made for that implementation.
const IMPLEMENTATIONS: [&str; 2] = ["genericWorker", "dockerWorker"];

/// The location of a form, for messages.
struct Place {
    /// `workerConfig`, `secret worker-pool:aa/bb`.
    name: String,
    /// The separator between the name and a key.
    separator: &'static str,
}

impl Place {
    fn key(&self, key: &str) -> String {
        format!("{}{}{}", self.name, self.separator, key_path("", key))
    }
}

/// Reads a provider's configuration for `implementation` (`generic-worker`): `{"genericWorker": {"config": …, "files":
/// …}}` or, deprecated, the configuration itself.
pub fn take_provider_form(value: Value, implementation: &str) -> Result<Taken, FormError> {
    let place = Place { name: "workerConfig".to_owned(), separator: "." };
    let mut object = expect_object(value, &place.name)?;
    let key = camel_case(implementation);
    if object.len() == 1
        && let Some(inner) = object.remove(&key)
    {
        let place = Place { name: place.key(&key), separator: "." };
        return match inner {
            Value::Null => Ok(Taken::default()),
            inner => take_parts(expect_object(inner, &place.name)?, &place),
        };
    }
    let doubtful =
        |given: &str| is_nearly(given, &key) || names_a_part(given) || IMPLEMENTATIONS.contains(&given);
    let meant = format!("`{key}` must be the only key, with `config` and `files` in it");
    Ok(take_flat(object, &place, doubtful, &meant))
}

/// Finds the configuration for `implementation` in a provider's form, as [`take_provider_form`] does; `None`: there is
/// no usable one. Files are ignored.
pub fn find_provider_config<'a>(value: &'a Value, implementation: &str) -> Option<&'a Object> {
    let object = value.as_object()?;
    match object.get(&camel_case(implementation)).filter(|_| object.len() == 1) {
        Some(inner) => inner.get("config")?.as_object(),
        None => Some(object),
    }
}

/// Reads the content of the secret `name`: `{"config": …, "files": …}` or, legacy, the configuration itself.
pub fn take_secret_form(value: Value, name: &str) -> Result<Taken, FormError> {
    let place = Place { name: format!("secret {name}"), separator: ": " };
    let object = expect_object(value, &place.name)?;
    if object.keys().all(|key| key == "config" || key == "files") {
        return take_parts(object, &place);
    }
    let meant = "`config` and `files` must be the only keys";
    Ok(take_flat(object, &place, names_a_part, meant))
}

fn take_flat(object: Object, place: &Place, doubtful: impl Fn(&str) -> bool, meant: &str) -> Taken {
    let warnings = object.keys().filter(|key| doubtful(key)).map(|key| FormWarning {
        place: place.key(key),
        taken: format!("taken as a key of the worker's configuration, as all that is beside it ({meant})"),
    });
    Taken { warnings: warnings.collect(), files: Vec::new(), config: object }
}

fn take_parts(mut parts: Object, place: &Place) -> Result<Taken, FormError> {
    let mut taken = Taken::default();
    match parts.remove("config") {
        None | Some(Value::Null) => {}
        Some(config) => taken.config = expect_object(config, &place.key("config"))?,
    }
    match parts.remove("files") {
        None | Some(Value::Null) => {}
        Some(Value::Array(files)) => {
            for (index, file) in files.into_iter().enumerate() {
                let name = item_path(&place.key("files"), index);
                let file = take_file(file, &Place { name, separator: "." }, &mut taken.warnings)?;
                taken.files.push(file);
            }
        }
        Some(other) => return Err(wrong_kind(place.key("files"), "an array", &other)),
    }
    taken.warnings.extend(parts.keys().map(|key| FormWarning {
        place: place.key(key),
        taken: "ignored: only `config` and `files` are known here".to_owned(),
    }));
    Ok(taken)
}

fn take_file(value: Value, place: &Place, warnings: &mut Vec<FormWarning>) -> Result<FileEntry, FormError> {
    let mut object = expect_object(value, &place.name)?;
    let described = |key: &str| match object.get(key) {
        Some(Value::String(text)) => Some(format!("{key} {text:?}")),
        _ => None,
    };
    let known: Vec<_> = ["path", "description"].into_iter().filter_map(described).collect();
    let hint = if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) };
    let mut text = |key: &'static str| match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_kind(format!("{}{hint}", place.key(key)), "a string", &other)),
    };
    let description = text("description")?.unwrap_or_default();
    let mut required = |key: &'static str| {
        let missing = || FormError::Missing { place: place.name.clone(), key, hint: hint.clone() };
        text(key)?.ok_or_else(missing)
    };
    let file = FileEntry {
        path: required("path")?,
        content: required("content")?,
        encoding: required("encoding")?,
        format: required("format")?,
        description,
    };
    warnings.extend(
        object.keys().map(|key| FormWarning { place: place.key(key), taken: "ignored: unknown".to_owned() }),
    );
    Ok(file)
}

fn expect_object(value: Value, place: &str) -> Result<Object, FormError> {
    match value {
        Value::Object(object) => Ok(object),
        other => Err(wrong_kind(place.to_owned(), "an object", &other)),
    }
}

fn wrong_kind(place: String, expected: &'static str, found: &Value) -> FormError {
    FormError::Kind { place, expected, found: kind_in_words(found) }
}

/// `generic-worker` → `genericWorker`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut whole, word| {
        let mut letters = word.chars();
        whole.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        whole.push_str(letters.as_str());
        whole
    })
}

fn names_a_part(key: &str) -> bool {
    is_nearly(key, "config") || is_nearly(key, "files")
}

/// Returns true if `given` equals `meant` except for case, dashes and one missing, additional or different letter.
fn is_nearly(given: &str, meant: &str) -> bool {
    let plain = |text: &str| -> Vec<char> {
        text.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect()
    };
    let (given, meant) = (plain(given), plain(meant));
    let same_start = given.iter().zip(&meant).take_while(|(a, b)| a == b).count();
    let longest = given.len().max(meant.len());
    let shortest = given.len().min(meant.len());
    let same_end = given.iter().rev().zip(meant.iter().rev()).take_while(|(a, b)| a == b).count();
    longest - shortest <= 1 && same_start + same_end + 1 >= longest
}
