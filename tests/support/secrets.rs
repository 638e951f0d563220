//! The global check that no secret is shown: all output of a runner in a test is scanned for that test's secrets. The
//! worker's own output is exempt.
//!
//! Tests need not list the secrets: runner configurations, caches, workers' files and records are in the test's folder,
//! and contain them under names that are defined here independently of the tested program.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

/// The keys of secrets in files, messages and environments.
const KEYS: &[&str] = &[
    "accessToken",
    "staticSecret",
    "secret",
    "securityToken",
    "token",
    "signature",
    "seed",
    "password",
    "RegistrationSecret",
    "TASKCLUSTER_ACCESS_TOKEN",
];

/// Shorter secrets cannot be distinguished from words.
const SHORTEST: usize = 8;

/// Larger files contain no configuration.
const MOST_BYTES: u64 = 8 << 20;

/// Secrets that must not appear, and their names.
#[derive(Debug, Clone, Default)]
pub struct Secrets(pub Vec<(String, String)>);

impl Secrets {
    /// The secrets in the files of a folder, recursively.
    pub fn of_folder(folder: &Path) -> Self {
        let mut secrets = Self::default();
        secrets.add_folder(folder);
        secrets
    }

    /// Adds the current secrets in these files.
    pub fn add_folder(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            // Neither links nor pipes.
            match entry.metadata() {
                Ok(about) if about.is_dir() => self.add_folder(&entry.path()),
                Ok(about) if about.is_file() && about.len() <= MOST_BYTES => self.add_file(&entry.path()),
                _ => {}
            }
        }
    }

    /// Adds a file's secrets. A configuration is one value, a record has one a line.
    pub fn add_file(&mut self, path: &Path) {
        let Ok(text) = std::fs::read_to_string(path) else { return };
        if let Ok(value) = serde_yaml::from_str::<Value>(&text) {
            return self.add_value(&value);
        }
        let values = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        values.for_each(|value| self.add_value(&value));
    }

    /// Adds the secrets in a value by their keys, and everything from the secrets service.
    pub fn add_value(&mut self, value: &Value) {
        match value {
            Value::Array(array) => array.iter().for_each(|value| self.add_value(value)),
            Value::Object(object) => {
                let from_secret = object.get("source").is_some_and(|source| source == "secret");
                for (key, value) in object {
                    match value {
                        _ if from_secret && key == "config" => self.add_all(value),
                        Value::String(text) if KEYS.contains(&key.as_str()) => self.add(key, text),
                        value => self.add_value(value),
                    }
                }
            }
            // A certificate is a string that contains JSON; with its quotes escaped it would not be recognized.
            Value::String(text) => {
                if let Ok(parts @ Value::Object(_)) = serde_json::from_str(text) {
                    self.add_value(&parts);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn add_all(&mut self, value: &Value) {
        match value {
            Value::Array(array) => array.iter().for_each(|value| self.add_all(value)),
            Value::Object(object) => object.values().for_each(|value| self.add_all(value)),
            Value::String(text) => self.add("a value of a secret", text),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Adds one secret.
    pub fn add(&mut self, what: &str, secret: &str) {
        if secret.len() >= SHORTEST && !self.0.iter().any(|(_, known)| known == secret) {
            self.0.push((what.to_owned(), secret.to_owned()));
        }
    }

    /// Lists the secrets in a runner's output, one a line, except in the worker's own output.
    pub fn leaks(&self, printed: &[u8]) -> String {
        let mut leaks = String::new();
        for (what, secret) in &self.0 {
            let seen = memchr::memmem::find_iter(printed, secret.as_bytes()).map(|at| line_at(printed, at));
            if let Some(line) = seen.into_iter().find(|line| !is_workers(line)) {
                // Writing to a String cannot fail.
                let _ = writeln!(leaks, "{what} is shown: {}", String::from_utf8_lossy(line));
            }
        }
        leaks
    }

    /// Fails the test if a secret was printed.
    #[track_caller]
    pub fn assert_kept(&self, printed: &[u8]) {
        let leaks = self.leaks(printed);
        assert!(leaks.is_empty(), "secrets in the output:\n{leaks}");
    }
}

/// The line at this position.
fn line_at(text: &[u8], at: usize) -> &[u8] {
    let (before, after) = text.split_at(at);
    let start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
    let end = memchr::memchr(b'\n', after).map_or(text.len(), |newline| at + newline);
    text.get(start..end).unwrap_or_default()
}

/// Returns true if a line of the log is the worker's: its tag is where the runner's own lines have their level.
fn is_workers(line: &[u8]) -> bool {
    if line.starts_with(b"{") {
        return serde_json::from_slice::<Value>(line).is_ok_and(|line| line["source"] == "worker");
    }
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let dated = words.next().is_some_and(|time| time.ends_with(b"Z") && time.contains(&b'T'));
    dated && words.next().is_some_and(|tag| matches!(tag, b"[worker]" | b"[stderr]"))
}
