//! A worker's registration with worker-manager: creation, renewal and removal.

use std::collections::BTreeMap;

use jiff::Timestamp;
use secrecy::SecretString;
use tracing::{info, warn};

use crate::credentials::Credentials;
use crate::run_spec::WorkerIdentity;
use crate::taskcluster::{CallError, Client, Effort, RegisterWorker, Registered, WorkerName};

pub mod deregister;

/// Registers one worker, and renews its registration.
#[derive(Clone)]
pub struct Registrar {
    client: Client,
    name: WorkerName,
    provider_id: String,
    /// The proof of identity, for a worker that may register any number of times (static).
    proof: Option<BTreeMap<&'static str, SecretString>>,
}

/// The result of a renewal.
#[derive(Debug)]
pub struct Renewed {
    pub credentials: Credentials,
    /// Valid for one further renewal.
    pub secret: SecretString,
}

impl Registrar {
    /// Creates the registrar for the worker `identity`. `proof`: with this proof the worker may register again at any
    /// time.
    pub fn new(
        client: Client,
        identity: &WorkerIdentity,
        proof: Option<BTreeMap<&'static str, SecretString>>,
    ) -> Self {
        Self { client, name: name_of(identity), provider_id: identity.provider_id.clone(), proof }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn name(&self) -> &WorkerName {
        &self.name
    }

    /// Registers the worker with this `proof`. Fails if worker-manager refuses, or does not answer within the effort.
    pub async fn register(
        &self,
        proof: &BTreeMap<&'static str, SecretString>,
        boot_time: Option<Timestamp>,
        effort: Effort,
    ) -> Result<Registered, CallError> {
        let request = RegisterWorker {
            name: &self.name,
            provider_id: &self.provider_id,
            proof,
            system_boot_time: boot_time,
        };
        self.client.register_worker(&request, effort).await
    }

    /// Obtains new credentials. If the renewal is refused, a worker that may register at any time registers again: the
    /// answer to an earlier renewal may have been lost, and with it the secret for the next. The errors are those of
    /// [`Self::register`].
    pub async fn renew(
        &self,
        credentials: &Credentials,
        secret: &SecretString,
        effort: Effort,
    ) -> Result<Renewed, CallError> {
        let refused = match self.client.reregister_worker(credentials, &self.name, secret, effort).await {
            Ok(renewed) => {
                return Ok(Renewed { credentials: renewed.credentials, secret: renewed.secret });
            }
            Err(cause) => cause,
        };
        let Some(proof) = self.proof.as_ref().filter(|_| refused.refused()) else { return Err(refused) };
        warn!(name: "credentials-renewal-refused", error = %refused, "credentials cannot be renewed: registering anew");
        let registered = self.register(proof, crate::host::boot_time::boot_time(), effort).await?;
        info!(name: "registered", "worker registered anew");
        Ok(Renewed { credentials: registered.credentials, secret: registered.secret })
    }
}

/// Converts a worker's identity to the form of worker-manager's calls.
pub fn name_of(identity: &WorkerIdentity) -> WorkerName {
    WorkerName {
        worker_pool_id: identity.worker_pool_id.as_str().to_owned(),
        worker_group: identity.worker_group.clone(),
        worker_id: identity.worker_id.clone(),
    }
}
