//! The parts of the worker configuration that come from Taskcluster: the registration's part, and the secrets.

use serde_json::Value;
use serde_json::value::RawValue;
use tracing::{debug, warn};

use super::PrepareError;
use crate::credentials::Credentials;
use crate::redact::Secrets;
use crate::run_spec::Object;
use crate::run_spec::files::{FileOrigin, ShippedFile};
use crate::run_spec::worker_config::{
    Source, Taken, parse_outside_json, take_provider_form, take_secret_form,
};
use crate::taskcluster::{Client, Effort};

/// Layers of worker configuration, and files, in the order of their precedence.
#[derive(Debug, Default)]
pub(super) struct Layers {
    pub(super) layers: Vec<(Source, Object)>,
    pub(super) files: Vec<ShippedFile>,
}

impl Layers {
    /// Adds the `workerConfig` of a registration.
    pub(super) fn take_provider(&mut self, raw: &RawValue, implementation: &str) -> Result<(), PrepareError> {
        let value = parse(raw, "workerConfig of the registration")?;
        let taken = take_provider_form(value, implementation)?;
        self.take(taken, Source::Provider, FileOrigin::Provider);
        Ok(())
    }

    fn take(&mut self, taken: Taken, source: Source, origin: FileOrigin) {
        for warning in taken.warnings {
            warn!("{warning}");
        }
        self.files.extend(taken.files.into_iter().map(|entry| ShippedFile { entry, origin }));
        self.layers.push((source, taken.config));
    }

    /// Fetches both secrets of the worker pool, the older name first. They need not exist.
    pub(super) async fn take_secrets(
        &mut self,
        client: &Client,
        credentials: &Credentials,
        pool: &str,
        effort: Effort,
        known: &Secrets,
    ) -> Result<(), PrepareError> {
        let mut none = true;
        for kind in ["worker-type", "worker-pool"] {
            let name = format!("{kind}:{pool}");
            let raw = match client.secret(credentials, &name, effort).await {
                Ok(raw) => raw,
                Err(cause) if cause.is_not_found() => {
                    debug!(secret = name, "there is no such secret");
                    continue;
                }
                // Most pools may not read the older name, whether it exists or not.
                Err(cause) if kind == "worker-type" && cause.status() == Some(403) => {
                    debug!(secret = name, "may not be read");
                    continue;
                }
                Err(cause) => {
                    let client_id = Some(credentials.client_id.clone());
                    return Err(PrepareError::Secret { name, cause, client_id });
                }
            };
            none = false;
            let value = parse(&raw, &format!("secret {name}"))?;
            let taken = take_secret_form(value, &name)?;
            // The paths of files are not secret: they are needed to find a file, or to understand why it cannot be
            // written.
            taken.config.values().for_each(|value| known.add_all(value));
            taken.files.iter().for_each(|file| file.add_to(known));
            self.take(taken, Source::Secret(name), FileOrigin::Secret);
        }
        if none {
            warn!(name: "pool-secret-missing",
                "this worker pool has no secret: neither worker-type:{pool} nor worker-pool:{pool} (getSecrets: false silences this line)"
            );
        }
        Ok(())
    }
}

fn parse(raw: &RawValue, place: &str) -> Result<Value, PrepareError> {
    let (value, long_integers) = parse_outside_json(raw.get())
        .map_err(|why| PrepareError::NotJson { place: place.to_owned(), why })?;
    for path in long_integers {
        warn!(path, "{place}: an integer of more than 64 bits has become a float; make it a string");
    }
    Ok(value)
}
