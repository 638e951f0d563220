//! The parameters and results of the calls.

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

/// Identifies a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerName {
    /// `<provisioner>/<worker type>`.
    pub worker_pool_id: String,
    /// Unique together with `worker_id`.
    pub worker_group: String,
    /// Unique in its group.
    pub worker_id: String,
}

/// The parameters of registerWorker.
pub struct RegisterWorker<'a> {
    pub name: &'a WorkerName,
    pub provider_id: &'a str,
    /// `workerIdentityProof`, by its keys.
    pub proof: &'a BTreeMap<&'static str, SecretString>,
    /// The host's boot time, if it is known. The client leaves it out for a deployment that does not know this field.
    pub system_boot_time: Option<Timestamp>,
}

/// The result of registerWorker.
pub struct Registered {
    pub credentials: Credentials,
    /// The worker pool's `workerConfig` for this worker, unchanged.
    pub worker_config: Box<RawValue>,
    /// Valid for one reregisterWorker.
    pub secret: SecretString,
}

/// The result of reregisterWorker.
#[derive(Debug)]
pub struct Reregistered {
    pub credentials: Credentials,
    /// Valid for the next reregisterWorker.
    pub secret: SecretString,
}

/// A report about a worker to the worker pool's operators.
#[derive(Debug, Clone)]
pub struct WorkerError {
    pub kind: String,
    /// A single line.
    pub title: String,
    /// The full text.
    pub description: String,
    /// Further machine-readable data.
    pub extra: Map<String, Value>,
}

/// The result of shouldWorkerTerminate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ShouldTerminate {
    /// True if the worker should finish its tasks and terminate.
    pub terminate: bool,
    /// The reason, such as `over capacity`.
    pub reason: String,
}

/// The required part of a worker pool's definition.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPool {
    pub provider_id: String,
    /// The provider-specific configuration.
    pub config: Value,
}

/// A worker's secret in the legacy aws-provisioner.
pub struct ProvisionerSecret {
    /// The worker's secrets, unchanged.
    pub data: Box<RawValue>,
    /// The worker's credentials. Their expiry is not known.
    pub credentials: Credentials,
    /// The scopes of the credentials.
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

/// The common part of the answers to registerWorker and reregisterWorker.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RegistrationAnswer {
    pub(super) expires: String,
    pub(super) credentials: AnsweredCredentials,
    pub(super) worker_config: Option<Box<RawValue>>,
    pub(super) secret: String,
}

/// Credentials in the form in which they are sent.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnsweredCredentials {
    client_id: String,
    access_token: String,
    certificate: Option<String>,
}

impl AnsweredCredentials {
    /// Converts to credentials without an expiry.
    pub(super) fn obtained(self, now: Timestamp) -> Credentials {
        Credentials {
            client_id: self.client_id,
            access_token: self.access_token.into(),
            certificate: self.certificate.filter(|text| !text.is_empty()).map(SecretString::from),
            expires: None,
            obtained: Some(now),
        }
    }

    /// Converts to credentials that expire at this date.
    pub(super) fn expire(self, expires: &str, now: Timestamp) -> Result<Credentials, Why> {
        let no_date = || Why::Broken("the answer cannot be used: expires is no date".to_owned());
        let expires = Date::parse(expires).ok_or_else(no_date)?.time();
        Ok(Credentials { expires, ..self.obtained(now) })
    }
}
