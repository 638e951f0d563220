//! Encodes a run as the text of its cache.

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::{CachedRun, Leaving, NEVER, Stage, VERSION};
use crate::credentials::Credentials;
use crate::run_spec::files::{FileOrigin, ShippedFile};
use crate::run_spec::worker_config::Source;
use crate::run_spec::{Object, Parts};

/// Replaces the list of files: the Go program refuses to read it.
const NO_FILES: &str = "this machine leaves: nothing is to be started from this cache";

impl CachedRun {
    /// Encodes the cache as JSON with sorted keys. `final_config` is the worker configuration including the worker
    /// implementation's settings, with which the Go program starts the worker unchanged.
    pub fn encode(&self, final_config: &Object) -> SecretString {
        let run = &self.run;
        let secret =
            |secret: Option<&SecretString>| secret.map_or("", ExposeSecret::expose_secret).to_owned();
        let mut object = self.kept.top.clone();
        let mut put = |key: &str, value: Value| drop(object.insert(key.to_owned(), value));
        put("RootURL", run.root_url.as_str().into());
        put("Credentials", credentials(&run.credentials));
        put("CredentialsExpire", run.credentials.expires.map_or_else(|| NEVER.to_owned(), time).into());
        put("RegistrationSecret", secret(run.registration_secret.as_ref()).into());
        put("WorkerPoolID", run.identity.worker_pool_id.as_str().into());
        put("WorkerGroup", run.identity.worker_group.as_str().into());
        put("WorkerID", run.identity.worker_id.as_str().into());
        put("ProviderID", run.identity.provider_id.as_str().into());
        put("ProviderMetadata", run.provider_metadata.clone().into());
        put("WorkerConfig", final_config.clone().into());
        put("Files", if self.leaving.is_some() { NO_FILES.into() } else { files(&run.files) });
        put("WorkerLocation", json!(run.worker_location));
        put("Extra", self.extra().into());
        Value::Object(object).to_string().into()
    }

    fn extra(&self) -> Object {
        let run = &self.run;
        let mut extra = self.kept.extra.clone();
        let mut put = |key: &str, value: Value| drop(extra.insert(key.to_owned(), value));
        put("version", VERSION.into());
        put(
            "stage",
            match self.stage {
                Stage::Registered => "registered",
                Stage::Complete => "complete",
            }
            .into(),
        );
        match &run.parts {
            Parts::Apart(layers) => {
                put("layers", layers.iter().map(|(source, config)| layer(source, config)).collect());
            }
            Parts::Whole(whole) => put("whole", whole.clone().into()),
        }
        let files = if self.leaving.is_some() { [].as_slice() } else { &run.files };
        put("fileOrigins", files.iter().map(|file| origin(file.origin)).collect());
        for (key, value) in [
            ("providerType", self.provider_type.clone()),
            ("credentialsObtained", run.credentials.obtained.map(time)),
            ("launchConfigId", run.launch_config_id.clone()),
        ] {
            if let Some(text) = value {
                put(key, text.into());
            }
        }
        if let Some(Leaving { at, reason, deregistered, shutdown_requested }) = &self.leaving {
            let steps = [("deregistered", deregistered), ("shutdownRequested", shutdown_requested)];
            let mut leaving = json!({"at": time(*at), "reason": reason});
            for (step, at) in steps.into_iter().filter_map(|(step, at)| Some((step, (*at)?))) {
                leaving[step] = time(at).into();
            }
            put("leaving", leaving);
        }
        extra
    }
}

/// Formats a time like the Go program.
fn time(time: Timestamp) -> String {
    format!("{time:.3}")
}

fn credentials(credentials: &Credentials) -> Value {
    json!({
        "clientId": credentials.client_id,
        "accessToken": credentials.access_token.expose_secret(),
        "certificate": credentials.certificate.as_ref().map_or("", ExposeSecret::expose_secret),
        "authorizedScopes": null,
    })
}

fn files(files: &[ShippedFile]) -> Value {
    match files {
        [] => Value::Null,
        files => files.iter().map(|file| json!(file.entry)).collect(),
    }
}

fn origin(origin: FileOrigin) -> &'static str {
    match origin {
        FileOrigin::Provider => "provider",
        FileOrigin::Secret => "secret",
    }
}

fn layer(source: &Source, config: &Object) -> Value {
    let (source, name) = match source {
        Source::RunnerFile => ("runnerFile", None),
        Source::Cache => ("cache", None),
        Source::Provider => ("provider", None),
        Source::Secret(name) => ("secret", Some(name)),
        Source::Implementation => ("implementation", None),
    };
    let mut layer = json!({"source": source, "config": config});
    if let (Some(name), Some(layer)) = (name, layer.as_object_mut()) {
        layer.insert("name".to_owned(), name.as_str().into());
    }
    layer
}
