//! The API calls: one method of [`Client`] for each.

use std::collections::BTreeMap;

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tracing::warn;

use super::attempts::{Effort, End};
use super::client::{Call, Client};
use super::error::{CallError, Quoting, Why, without_byte_order_mark};
use super::values::{
    AnsweredCredentials, ProvisionerSecret, RegisterWorker, Registered, RegistrationAnswer, Reregistered,
    ShouldTerminate, WorkerError, WorkerName, WorkerPool,
};
use crate::credentials::Credentials;
use crate::redact::fit;

/// Maximum length of a title for reportWorkerError, in characters.
const LONGEST_TITLE: usize = 128;
/// Maximum length of a description for reportWorkerError, in characters.
const LONGEST_DESCRIPTION: usize = 10_240;

/// The calls that neither send nor return a secret, so that errors may quote the answer. For every other call, even if
/// the answer is a proxy's page, errors show only its status, its type, Taskcluster's own `code` and the first line of
/// its `message`.
const QUOTED: &[&str] =
    &["ping", "shouldWorkerTerminate", "reportWorkerError", "removeWorker", "quarantineWorker"];

/// All characters except RFC 3986's unreserved ones: a parameter is encoded as a whole, including its slashes.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

impl Client {
    /// registerWorker: proves the worker's identity and returns its credentials. A dynamic worker can call this once.
    pub async fn register_worker(
        &self,
        request: &RegisterWorker<'_>,
        effort: Effort,
    ) -> Result<Registered, CallError> {
        let end = End::from(effort);
        let Some(boot_time) = request.system_boot_time else {
            return self.register(request, None, end).await;
        };
        match self.register(request, Some(boot_time), end).await {
            Err(refusal) if names_the_boot_time(&refusal) => {
                warn!("this Taskcluster deployment does not know systemBootTime: registering without it");
                self.register(request, None, end).await
            }
            result => result,
        }
    }

    async fn register(
        &self,
        request: &RegisterWorker<'_>,
        boot_time: Option<Timestamp>,
        end: End,
    ) -> Result<Registered, CallError> {
        let RegisterWorker { name, provider_id, proof, .. } = request;
        let shown: BTreeMap<_, _> = proof.iter().map(|(key, value)| (*key, value.expose_secret())).collect();
        let mut body = worker_body(name);
        body.insert("providerId".to_owned(), json!(provider_id));
        body.insert("workerIdentityProof".to_owned(), json!(shown));
        if let Some(boot_time) = boot_time {
            body.insert("systemBootTime".to_owned(), json!(boot_time.to_string()));
        }
        let mut call = manager("registerWorker", Method::POST, &["worker", "register"]).with_body(body);
        call.secrets = proof.values().collect();
        self.call(&call, end, |body, quoting| {
            let answer: RegistrationAnswer = read(body, quoting)?;
            let worker_config = answer.worker_config.ok_or_else(|| missing("workerConfig"))?;
            let credentials = answer.credentials.expire(&answer.expires, self.now())?;
            Ok(Registered { credentials, worker_config, secret: answer.secret.into() })
        })
        .await
    }

    /// reregisterWorker: exchanges the secret of the last registration for new credentials and the next secret. The old
    /// secret is invalid afterwards, even if the answer is lost.
    pub async fn reregister_worker(
        &self,
        credentials: &Credentials,
        name: &WorkerName,
        secret: &SecretString,
        effort: Effort,
    ) -> Result<Reregistered, CallError> {
        let mut body = worker_body(name);
        body.insert("secret".to_owned(), json!(secret.expose_secret()));
        let mut call = manager("reregisterWorker", Method::POST, &["worker", "reregister"])
            .with_body(body)
            .signed(credentials);
        call.secrets.push(secret);
        self.call(&call, effort.into(), |body, quoting| {
            let answer: RegistrationAnswer = read(body, quoting)?;
            let credentials = answer.credentials.expire(&answer.expires, self.now())?;
            Ok(Reregistered { credentials, secret: answer.secret.into() })
        })
        .await
    }

    /// reportWorkerError: reports an error to the worker pool's operators. A title or description that is too long is
    /// truncated.
    pub async fn report_worker_error(
        &self,
        credentials: &Credentials,
        name: &WorkerName,
        error: &WorkerError,
        effort: Effort,
    ) -> Result<(), CallError> {
        let WorkerName { worker_pool_id, worker_group, worker_id } = name;
        let body = Map::from_iter([
            ("workerGroup".to_owned(), json!(worker_group)),
            ("workerId".to_owned(), json!(worker_id)),
            ("kind".to_owned(), json!(error.kind)),
            ("title".to_owned(), json!(storable(&error.title, LONGEST_TITLE, "…"))),
            ("description".to_owned(), json!(storable(&error.description, LONGEST_DESCRIPTION, "\n… (cut)"))),
            ("extra".to_owned(), json!(error.extra)),
        ]);
        let call = manager("reportWorkerError", Method::POST, &["worker-pool-errors", worker_pool_id])
            .with_body(body)
            .signed(credentials);
        self.call(&call, effort.into(), nothing).await
    }

    /// removeWorker: asks worker-manager to remove this worker permanently. May be repeated.
    pub async fn remove_worker(
        &self,
        credentials: &Credentials,
        name: &WorkerName,
        effort: Effort,
    ) -> Result<(), CallError> {
        let WorkerName { worker_pool_id, worker_group, worker_id } = name;
        let path = ["workers", worker_pool_id, worker_group, worker_id];
        let call = manager("removeWorker", Method::DELETE, &path).signed(credentials);
        self.call(&call, effort.into(), nothing).await
    }

    /// The queue's quarantineWorker: the queue gives this worker no tasks until then. The queue knows a worker once it has
    /// asked for tasks.
    pub async fn quarantine_worker(
        &self,
        credentials: &Credentials,
        name: &WorkerName,
        (until, info): (Timestamp, &str),
        effort: Effort,
    ) -> Result<(), CallError> {
        let WorkerName { worker_pool_id, worker_group, worker_id } = name;
        let (provisioner, worker_type) = worker_pool_id.split_once('/').unwrap_or((worker_pool_id, ""));
        let parts =
            ["provisioners", provisioner, "worker-types", worker_type, "workers", worker_group, worker_id];
        let body = Map::from_iter([
            ("quarantineUntil".to_owned(), json!(format!("{until:.3}"))),
            ("quarantineInfo".to_owned(), json!(info)),
        ]);
        let call = Call::new("quarantineWorker", Method::PUT, path("queue", &parts)).with_body(body);
        self.call(&call.signed(credentials), effort.into(), nothing).await
    }

    /// shouldWorkerTerminate: asks whether worker-manager wants this worker to terminate.
    pub async fn should_worker_terminate(
        &self,
        credentials: &Credentials,
        name: &WorkerName,
        effort: Effort,
    ) -> Result<ShouldTerminate, CallError> {
        let WorkerName { worker_pool_id, worker_group, worker_id } = name;
        let path = ["workers", worker_pool_id, worker_group, worker_id, "should-terminate"];
        let call = manager("shouldWorkerTerminate", Method::GET, &path).signed(credentials);
        self.call(&call, effort.into(), read).await
    }

    /// workerPool: returns a worker pool's definition.
    pub async fn worker_pool(
        &self,
        credentials: &Credentials,
        pool_id: &str,
        effort: Effort,
    ) -> Result<WorkerPool, CallError> {
        let call = manager("workerPool", Method::GET, &["worker-pool", pool_id]).signed(credentials);
        self.call(&call, effort.into(), read).await
    }

    /// workerPool without credentials: returns the public definition.
    pub async fn public_worker_pool(&self, pool_id: &str, effort: Effort) -> Result<WorkerPool, CallError> {
        self.call(&manager("workerPool", Method::GET, &["worker-pool", pool_id]), effort.into(), read).await
    }

    /// auth's currentScopes: returns the scopes of these credentials. Has no side effect.
    pub async fn current_scopes(
        &self,
        credentials: &Credentials,
        effort: Effort,
    ) -> Result<Vec<String>, CallError> {
        #[derive(Deserialize)]
        struct Scopes {
            scopes: Vec<String>,
        }
        let call = Call::new("currentScopes", Method::GET, path("auth", &["scopes", "current"]));
        let call = call.signed(credentials);
        self.call(&call, effort.into(), |body, quoting| Ok(read::<Scopes>(body, quoting)?.scopes)).await
    }

    /// worker, without credentials: succeeds if worker-manager knows this worker and the information is public. Has no
    /// side effect.
    pub async fn public_worker(&self, name: &WorkerName, effort: Effort) -> Result<(), CallError> {
        let WorkerName { worker_pool_id, worker_group, worker_id } = name;
        let path = ["workers", worker_pool_id, worker_group, worker_id];
        self.call(&manager("worker", Method::GET, &path), effort.into(), nothing).await
    }

    /// ping: succeeds if worker-manager is reachable. Has no side effect.
    pub async fn ping(&self, effort: Effort) -> Result<(), CallError> {
        self.call(&manager("ping", Method::GET, &["ping"]), effort.into(), nothing).await
    }

    /// The secrets service's get: returns the content of a secret, unchanged.
    pub async fn secret(
        &self,
        credentials: &Credentials,
        name: &str,
        effort: Effort,
    ) -> Result<Box<RawValue>, CallError> {
        #[derive(Deserialize)]
        struct Secret {
            secret: Box<RawValue>,
        }
        let call = Call::new("get", Method::GET, path("secrets", &["secret", name])).signed(credentials);
        self.call(&call, effort.into(), |body, quoting| Ok(read::<Secret>(body, quoting)?.secret)).await
    }

    /// The legacy aws-provisioner's getSecret. The token must be protected like the secret itself.
    pub async fn provisioner_secret(
        &self,
        token: &SecretString,
        effort: Effort,
    ) -> Result<ProvisionerSecret, CallError> {
        #[derive(Deserialize)]
        struct Secret {
            data: Box<RawValue>,
            credentials: AnsweredCredentials,
            #[serde(default)]
            scopes: Vec<String>,
        }
        let call = provisioner("getSecret", Method::GET, token);
        self.call(&call, effort.into(), |body, quoting| {
            let Secret { data, credentials, scopes } = read(body, quoting)?;
            let credentials = credentials.obtained(self.now());
            Ok(ProvisionerSecret { data, credentials, scopes })
        })
        .await
    }

    /// The legacy aws-provisioner's removeSecret.
    pub async fn remove_provisioner_secret(
        &self,
        token: &SecretString,
        effort: Effort,
    ) -> Result<(), CallError> {
        self.call(&provisioner("removeSecret", Method::DELETE, token), effort.into(), nothing).await
    }
}

impl<'a> Call<'a> {
    /// Returns true if errors may quote the body of an answer.
    pub(super) fn may_be_quoted(&self) -> bool {
        QUOTED.contains(&self.name)
    }

    fn new(name: &'static str, method: Method, path: String) -> Self {
        Self { name, method, path, body: None, credentials: None, secrets: Vec::new(), token: None }
    }

    fn with_body(self, body: Map<String, Value>) -> Self {
        Self { body: Some(Value::Object(body).to_string()), ..self }
    }

    fn signed(mut self, credentials: &'a Credentials) -> Self {
        self.secrets.push(&credentials.access_token);
        self.secrets.extend(&credentials.certificate);
        Self { credentials: Some(credentials), ..self }
    }
}

fn manager<'a>(name: &'static str, method: Method, parts: &[&str]) -> Call<'a> {
    Call::new(name, method, path("worker-manager", parts))
}

fn provisioner<'a>(name: &'static str, method: Method, token: &'a SecretString) -> Call<'a> {
    let path = path("aws-provisioner", &["secret", token.expose_secret()]);
    Call { token: Some(token), ..Call::new(name, method, path) }
}

fn path(service: &str, parts: &[&str]) -> String {
    parts.iter().fold(format!("/api/{service}/v1"), |path, part| format!("{path}/{}", encoded(part)))
}

/// Encodes a path parameter.
pub(super) fn encoded(part: &str) -> String {
    utf8_percent_encode(part, RESERVED).to_string()
}

fn worker_body(name: &WorkerName) -> Map<String, Value> {
    Map::from_iter([
        ("workerPoolId".to_owned(), json!(name.worker_pool_id)),
        ("workerGroup".to_owned(), json!(name.worker_group)),
        ("workerId".to_owned(), json!(name.worker_id)),
    ])
}

/// Older deployments refuse unknown fields.
fn names_the_boot_time(refusal: &CallError) -> bool {
    let invalid = refusal.status() == Some(400) && refusal.code() == Some("InputValidationError");
    invalid && refusal.names("systemBootTime")
}

/// Postgres cannot store a NUL.
fn storable(text: &str, longest: usize, mark: &str) -> String {
    fit(&text.replace('\0', "\u{fffd}"), longest, mark).into_owned()
}

fn missing(field: &str) -> Why {
    Why::Broken(format!("the answer cannot be used: missing field `{field}`"))
}

fn read<T: DeserializeOwned>(body: &[u8], quoting: &Quoting<'_>) -> Result<T, Why> {
    let body = without_byte_order_mark(body);
    serde_json::from_slice(body).map_err(|cause| Why::of_body(&cause, body, quoting))
}

/// Checks that an answer without required content is JSON, and not a proxy's page.
fn nothing(body: &[u8], quoting: &Quoting<'_>) -> Result<(), Why> {
    if body.is_empty() { Ok(()) } else { read::<IgnoredAny>(body, quoting).map(|_| ()) }
}
