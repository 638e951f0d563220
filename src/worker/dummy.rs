//! `dummy`: starts nothing; shows the run as YAML, its secrets masked.

use std::fmt::Write;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::run::files::{FileOrigin, ShippedFile};
use crate::run::worker_config::Merged;
use crate::run::{Object, Run};

/// Stands for a secret.
const MASK: &str = "(masked)";

/// What a dummy run shows.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// The run.
    pub run: &'a Run,
    /// The secret that the registration gave, to renew with; `None`: not registered.
    pub registration_secret: Option<&'a SecretString>,
    /// The files that came with the worker configuration.
    pub files: &'a [ShippedFile],
    /// Whether to show secrets, too.
    pub secrets: bool,
}

/// The run as a YAML document, its keys those of the cache file.
pub fn show(shown: &Shown<'_>) -> String {
    let Shown { run, .. } = shown;
    let identity = &run.identity;
    let expires =
        run.credentials.expires.map_or("0001-01-01T00:00:00.000Z".to_owned(), |t| format!("{t:.3}"));
    let whole = [
        ("RootURL", json!(run.root_url)),
        ("Credentials", credentials(shown)),
        ("CredentialsExpire", json!(expires)),
        ("RegistrationSecret", json!(shown.secret(shown.registration_secret))),
        ("WorkerPoolID", json!(identity.worker_pool_id.as_str())),
        ("WorkerGroup", json!(identity.worker_group)),
        ("WorkerID", json!(identity.worker_id)),
        ("ProviderID", json!(identity.provider_id)),
        ("ProviderMetadata", json!(run.provider_metadata)),
        ("WorkerConfig", Value::Object(shown.worker_config())),
        ("Files", Value::Array(shown.files.iter().map(|file| shown.file(file)).collect())),
        ("WorkerLocation", json!(run.worker_location)),
    ];
    let mut text = String::new();
    for (key, value) in &whole {
        write_entry(&mut text, 0, key, value);
    }
    text
}

fn credentials(shown: &Shown<'_>) -> Value {
    let credentials = &shown.run.credentials;
    json!({
        "clientId": credentials.client_id,
        "accessToken": shown.secret(Some(&credentials.access_token)),
        "certificate": shown.secret(credentials.certificate.as_ref()),
        "authorizedScopes": null,
    })
}

impl Shown<'_> {
    fn secret<'s>(&self, secret: Option<&'s SecretString>) -> &'s str {
        match secret.map(ExposeSecret::expose_secret) {
            None | Some("") => "",
            Some(text) if self.secrets => text,
            Some(_) => MASK,
        }
    }

    fn worker_config(&self) -> Object {
        let config = &self.run.worker_config;
        if self.secrets { config.object().clone() } else { mask(config, &self.known_secrets()) }
    }

    fn known_secrets(&self) -> Vec<&str> {
        let credentials = &self.run.credentials;
        let known =
            [Some(&credentials.access_token), credentials.certificate.as_ref(), self.registration_secret];
        let texts = known.into_iter().flatten().map(ExposeSecret::expose_secret);
        texts.filter(|text| !text.is_empty()).collect()
    }

    fn file(&self, file: &ShippedFile) -> Value {
        let ShippedFile { entry, origin } = file;
        let secret = *origin == FileOrigin::Secret && !self.secrets;
        json!({
            "description": entry.description,
            "path": entry.path,
            "content": if secret { MASK } else { &entry.content },
            "encoding": entry.encoding,
            "format": entry.format,
        })
    }
}

/// The configuration with a mask in the place of each leaf that is, or may be, secret.
fn mask(config: &Merged, known: &[&str]) -> Object {
    config.map_leaves(|leaf| {
        let text = leaf.value.as_str().unwrap_or_default();
        let secret = leaf.source.holds_secrets() || known.iter().any(|secret| text.contains(secret));
        if secret { Value::from(MASK) } else { leaf.value.clone() }
    })
}

/// Writes `key: value` in YAML's block style. Scalars are written as JSON, which YAML reads as the same scalars.
fn write_entry(text: &mut String, indent: usize, key: &str, value: &Value) {
    let plain = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&&*key.to_ascii_lowercase());
    let key = if plain { key.to_owned() } else { Value::from(key).to_string() };
    let _ = write!(text, "{:indent$}{key}:", "");
    write_value(text, indent, value);
}

/// Writes a value after `key:` or `-`, with the end of its line.
fn write_value(text: &mut String, indent: usize, value: &Value) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            text.push('\n');
            for (key, value) in object {
                write_entry(text, indent + 2, key, value);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            for item in items {
                let _ = write!(text, "{:1$}-", "", indent + 2);
                write_value(text, indent + 2, item);
            }
        }
        scalar => {
            let _ = writeln!(text, " {scalar}");
        }
    }
}
