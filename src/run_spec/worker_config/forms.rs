//! The forms in which providers and secrets hand over worker configuration and files.

use std::fmt;

use serde_json::Value;

use super::{item_path, key_path, kind_in_words};
use crate::run_spec::Object;
use crate::run_spec::files::FileEntry;

/// What a provider or a secret has handed over.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// A layer of worker configuration.
    pub config: Object,
    /// Files to write before the worker starts.
    pub files: Vec<FileEntry>,
    /// What looks like a mistake.
    pub warnings: Vec<FormWarning>,
}

/// Something in a worker configuration that looks like a mistake, and how it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormWarning {
    /// The doubtful key: `workerConfig.genericWorker.configs`, `secret worker-pool:aa/bb: file`.
    pub place: String,
    /// What it was taken for.
    pub taken: String,
}

impl fmt::Display for FormWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.taken)
    }
}

/// A worker configuration that cannot be taken at all. It shows no values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A value of another kind than it must be.
    #[error("{place} must be {expected}, but is {found}")]
    Kind {
        /// Which value.
        place: String,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A file without one of the keys that every file has.
    #[error("{place} has no `{key}`{hint}")]
    Missing {
        /// Which file.
        place: String,
        /// The missing key.
        key: &'static str,
        /// Path and description of the file, as far as it has them.
        hint: String,
    },
}

/// The keys of other implementations: a pool that has one was made for these.
const IMPLEMENTATIONS: [&str; 2] = ["genericWorker", "dockerWorker"];

/// Where a form was found, for messages.
struct Place {
    /// `workerConfig`, `secret worker-pool:aa/bb`.
    name: String,
    /// What stands between the name and a key within.
    separator: &'static str,
}

impl Place {
    fn key(&self, key: &str) -> String {
        format!("{}{}{}", self.name, self.separator, key_path("", key))
    }
}

/// Takes what a provider hands over for `implementation` (`generic-worker`): `{"genericWorker": {"config": …,
/// "files": …}}`, or else (deprecated) the configuration itself.
///
/// # Errors
///
/// It is not an object, or one of its parts is not what it must be.
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

/// The configuration in what a provider hands over for `implementation`, as [`take_provider_form`] finds it; `None`: none
/// that could be taken. Files are not looked at.
pub fn find_provider_config<'a>(value: &'a Value, implementation: &str) -> Option<&'a Object> {
    let object = value.as_object()?;
    match object.get(&camel_case(implementation)).filter(|_| object.len() == 1) {
        Some(inner) => inner.get("config")?.as_object(),
        None => Some(object),
    }
}

/// Takes what the secret `name` holds: `{"config": …, "files": …}`, or else (legacy) the configuration itself.
///
/// # Errors
///
/// It is not an object, or one of its parts is not what it must be.
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

/// Whether `given` is `meant`, but for case, dashes and one letter more, less or other.
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
