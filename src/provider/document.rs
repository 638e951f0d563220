//! JSON objects from clouds. Errors name the key but never show a value, because user-data contains secrets.

use serde_json::Value;
use tracing::warn;

use super::ProviderError;
use crate::run_spec::worker_config::parse_outside_json;
use crate::run_spec::{Object, WorkerPoolId};

/// A JSON object and the name of its source.
pub(super) struct Document {
    what: String,
    object: Object,
}

impl Document {
    /// Parses a text. `what` names its source in errors.
    pub(super) fn parse(what: String, text: &str) -> Result<Self, ProviderError> {
        match parse_outside_json(text) {
            Ok((Value::Object(object), long_integers)) => {
                for path in long_integers {
                    warn!(what, path, "an integer of more than 64 bits: taken as a float");
                }
                Ok(Self { what, object })
            }
            Ok((Value::Null, _)) => Err(ProviderError::Incomplete { what, why: "is null".to_owned() }),
            Ok(_) => Err(ProviderError::Answer { what, why: "expected a JSON object".to_owned() }),
            // For syntax errors, the cause only gives the position.
            Err(cause) => {
                let why = format!("expected a JSON object, found none: {cause}");
                let broken_off = cause.is_eof();
                Err(if broken_off {
                    ProviderError::Incomplete { what, why }
                } else {
                    ProviderError::Answer { what, why }
                })
            }
        }
    }

    /// Wraps an existing object.
    pub(super) fn new(what: String, object: Object) -> Self {
        Self { what, object }
    }

    /// An error about this key.
    pub(super) fn wrong(&self, key: &str, why: &str) -> ProviderError {
        ProviderError::Answer { what: self.what.clone(), why: format!("`{key}` {why}") }
    }

    /// An error about a missing key.
    pub(super) fn missing(&self, key: &str) -> ProviderError {
        ProviderError::Incomplete { what: self.what.clone(), why: format!("`{key}` is missing, and needed") }
    }

    /// A value other than `null`.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// A non-empty string.
    pub(super) fn text(&self, key: &str) -> Result<String, ProviderError> {
        match self.optional_text(key)? {
            Some(text) => Ok(text),
            None => Err(self.missing(key)),
        }
    }

    /// An optional string. Absent, `null` and empty are equivalent.
    pub(super) fn optional_text(&self, key: &str) -> Result<Option<String>, ProviderError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(_) => Err(self.wrong(key, "must be a string")),
        }
    }

    /// An object; empty if it is absent.
    pub(super) fn object(&self, key: &str) -> Result<Object, ProviderError> {
        match self.value(key) {
            None => Ok(Object::new()),
            Some(Value::Object(object)) => Ok(object.clone()),
            Some(_) => Err(self.wrong(key, "must be an object")),
        }
    }

    /// A root URL, without trailing slashes.
    pub(super) fn root_url(&self, key: &str) -> Result<String, ProviderError> {
        let url = self.text(key)?;
        let url = url.trim_end_matches('/');
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        if host.is_none_or(|host| host.is_empty() || host.contains(char::is_whitespace)) {
            return Err(self.wrong(key, "must be a URL with http or https"));
        }
        Ok(url.to_owned())
    }

    /// A worker pool's id.
    pub(super) fn worker_pool_id(&self, key: &str) -> Result<WorkerPoolId, ProviderError> {
        let text = self.text(key)?;
        WorkerPoolId::parse(&text)
            .ok_or_else(|| self.wrong(key, &format!("must be <provisionerId>/<workerType>, found {text:?}")))
    }
}
