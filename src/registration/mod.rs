//! A worker's registration with worker-manager: made once, renewed, and ended.

use std::collections::BTreeMap;

use jiff::Timestamp;
use secrecy::SecretString;
use tracing::{info, warn};

use crate::credentials::Credentials;
use crate::run_spec::WorkerIdentity;
use crate::taskcluster::{CallError, Client, Effort, RegisterWorker, Registered, WorkerName};

pub mod deregister;

/// Who registers, and with what.
#[derive(Clone)]
pub struct Registrar {
    client: Client,
    name: WorkerName,
    provider_id: String,
    /// What proves who the worker is, where it may register as often as it likes (static).
    proof: Option<BTreeMap<&'static str, SecretString>>,
}

/// What a renewal has brought.
#[derive(Debug)]
pub struct Renewed {
    /// The new credentials.
    pub credentials: Credentials,
    /// For the next renewal, once.
    pub secret: SecretString,
}

impl Registrar {
    /// For the worker `identity`. `proof`: it may register again at any time with this.
    pub fn new(
        client: Client,
        identity: &WorkerIdentity,
        proof: Option<BTreeMap<&'static str, SecretString>>,
    ) -> Self {
        Self { client, name: name_of(identity), provider_id: identity.provider_id.clone(), proof }
    }

    /// Whom it registers with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The worker's name.
    pub fn name(&self) -> &WorkerName {
        &self.name
    }

    /// Registers the worker with this `proof`.
    ///
    /// # Errors
    ///
    /// Refused, or no answer for as long as it was tried.
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

    /// New credentials. A worker that may register at any time does so where the renewal is refused: the answer to an
    /// earlier one may have been lost, and with it the secret for the next.
    ///
    /// # Errors
    ///
    /// Refused, or no answer for as long as it was tried.
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

/// A worker's name, as worker-manager's calls want it.
pub fn name_of(identity: &WorkerIdentity) -> WorkerName {
    WorkerName {
        worker_pool_id: identity.worker_pool_id.as_str().to_owned(),
        worker_group: identity.worker_group.clone(),
        worker_id: identity.worker_id.clone(),
    }
}
