//! What goes into the calls, and what comes out.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::error::Why;
use crate::clock::Date;
use crate::credentials::Credentials;

/// Which worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerName {
    /// `<provisioner>/<worker type>`.
    pub worker_pool_id: String,
    /// Unique together with `worker_id`.
    pub worker_group: String,
    /// Unique in its group.
    pub worker_id: String,
}

/// What registerWorker needs.
pub struct RegisterWorker<'a> {
    /// Which worker.
    pub name: &'a WorkerName,
    /// The worker pool's provider.
    pub provider_id: &'a str,
    /// `workerIdentityProof`, by its keys.
    pub proof: &'a BTreeMap<&'static str, SecretString>,
    /// When the host booted, where that is known. Left out where the deployment does not know it.
    pub system_boot_time: Option<Timestamp>,
}

/// What registerWorker answers.
pub struct Registered {
    /// The worker's credentials.
    pub credentials: Credentials,
    /// The worker pool's `workerConfig` for this worker, as it was sent.
    pub worker_config: Box<RawValue>,
    /// For reregisterWorker, once.
    pub secret: SecretString,
}

/// What reregisterWorker answers.
#[derive(Debug)]
pub struct Reregistered {
    /// The worker's new credentials.
    pub credentials: Credentials,
    /// For the next reregisterWorker, once.
    pub secret: SecretString,
}

/// What a worker's operators are told about it.
#[derive(Debug, Clone)]
pub struct WorkerError {
    /// What kind of error.
    pub kind: String,
    /// One line.
    pub title: String,
    /// All that is known.
    pub description: String,
    /// More, for machines.
    pub extra: Map<String, Value>,
}

/// What shouldWorkerTerminate answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ShouldTerminate {
    /// Whether the worker should finish its tasks and end.
    pub terminate: bool,
    /// Why, such as `over capacity`.
    pub reason: String,
}

/// A worker pool's definition, as far as it matters.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPool {
    /// Its provider.
    pub provider_id: String,
    /// What the provider makes of it.
    pub config: Value,
}

/// What the legacy aws-provisioner holds for a worker.
pub struct ProvisionerSecret {
    /// The worker's secrets, as they were sent.
    pub data: Box<RawValue>,
    /// The worker's credentials. When they expire is not said.
    pub credentials: Credentials,
    /// Their scopes.
    pub scopes: Vec<String>,
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

impl fmt::Debug for ProvisionerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProvisionerSecret").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

/// What both kinds of registration answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RegistrationAnswer {
    pub(super) expires: String,
    pub(super) credentials: AnsweredCredentials,
    pub(super) worker_config: Option<Box<RawValue>>,
    pub(super) secret: String,
}

/// Credentials as they are sent.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnsweredCredentials {
    client_id: String,
    access_token: String,
    certificate: Option<String>,
}

impl AnsweredCredentials {
    /// As they are kept.
    pub(super) fn obtained(self, now: Timestamp) -> Credentials {
        Credentials {
            client_id: self.client_id,
            access_token: self.access_token.into(),
            certificate: self.certificate.filter(|text| !text.is_empty()).map(SecretString::from),
            expires: None,
            obtained: Some(now),
        }
    }

    /// As they are kept, if they expire at this date.
    pub(super) fn expire(self, expires: &str, now: Timestamp) -> Result<Credentials, Why> {
        let no_date = || Why::Broken("the answer cannot be used: expires is no date".to_owned());
        let expires = Date::parse(expires).ok_or_else(no_date)?.time();
        Ok(Credentials { expires, ..self.obtained(now) })
    }
}
