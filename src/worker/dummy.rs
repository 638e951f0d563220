//! `dummy`: starts no worker, and prints the run as YAML with its secrets masked.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::config;
use crate::redact::MASK;
use crate::run_spec::files::{FileOrigin, ShippedFile};
use crate::run_spec::{Object, Run};

/// The data that a dummy run prints.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    pub run: &'a Run,
    /// The secret from the registration, for renewals; `None`: not registered.
    pub registration_secret: Option<&'a SecretString>,
    /// The files of the worker configuration.
    pub files: &'a [ShippedFile],
    /// True to show secrets, too.
    pub secrets: bool,
}

/// Formats the run as a YAML document with the keys of the cache file.
pub fn show(shown: &Shown<'_>) -> String {
    let Shown { run, .. } = shown;
    let identity = &run.identity;
    let expires =
        run.credentials.expires.map_or("0001-01-01T00:00:00.000Z".to_owned(), |t| format!("{t:.3}"));
    config::to_yaml(&json!({
        "RootURL": run.root_url,
        "Credentials": credentials(shown),
        "CredentialsExpire": expires,
        "RegistrationSecret": shown.secret(shown.registration_secret),
        "WorkerPoolID": identity.worker_pool_id.as_str(),
        "WorkerGroup": identity.worker_group,
        "WorkerID": identity.worker_id,
        "ProviderID": identity.provider_id,
        "ProviderMetadata": run.provider_metadata,
        "WorkerConfig": shown.worker_config(),
        "Files": shown.files.iter().map(|file| shown.file(file)).collect::<Vec<_>>(),
        "WorkerLocation": run.worker_location,
    }))
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
        if self.secrets {
            config.object().clone()
        } else {
            config.masked(&self.known_secrets()).object().clone()
        }
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
