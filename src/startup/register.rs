//! The registration of a start.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use tracing::info;

use super::patience::Patience;
use super::{PrepareError, Preparer};
use crate::credentials::Credentials;
use crate::host::boot_time::boot_time;
use crate::provider::Identified;
use crate::registration::Registrar;
use crate::run_spec::{Parts, Run, WorkerIdentity};
use crate::taskcluster::Client;

impl Preparer {
    /// The client for Taskcluster.
    pub fn client(&self, root_url: &str) -> Result<Client, PrepareError> {
        let client = Client::new(root_url, &self.proxies, self.clock.clone())?;
        let client = client.with_lanes(self.lanes.clone());
        let counting =
            client.counting(self.in_flight.clone(), self.counters.clone(), self.limits.pace.clone());
        Ok(counting.telling(self.trouble.clone()).masking(self.secrets.clone()))
    }

    /// Registers the worker. Also returns the `workerConfig` of the registration, unchanged.
    pub(super) async fn register(
        &self,
        identified: Identified,
        proof: &BTreeMap<&'static str, SecretString>,
        client: &Client,
        patience: Patience,
    ) -> Result<(Run, Registrar, Box<RawValue>), PrepareError> {
        for value in proof.values() {
            self.secrets.add(value.expose_secret());
        }
        let again = (!self.dynamic()).then(|| proof.clone());
        let registrar = Registrar::new(client.clone(), &identified.identity, again);
        let registered = registrar
            .register(proof, boot_time(), patience.effort())
            .await
            .map_err(|cause| PrepareError::Registration { cause, once: self.dynamic() })?;
        self.know(&registered.credentials);
        self.secrets.add(registered.secret.expose_secret());
        let identity = &identified.identity;
        info!(name: "registered",
            root_url = identified.root_url, worker_pool = %identity.worker_pool_id,
            worker_group = identity.worker_group, worker_id = identity.worker_id,
            credentials_expire = %registered.credentials.expires.map(|time| format!("{time:.0}")).unwrap_or_default(),
            "worker registered"
        );
        let mut run = run_of(identified, registered.credentials);
        run.registration_secret = Some(registered.secret);
        Ok((run, registrar, registered.worker_config))
    }

    /// Records the worker's identity, from the provider or from a cached run that may be stale.
    pub(super) fn known(&mut self, root_url: &str, identity: &WorkerIdentity) {
        self.identified = true;
        let WorkerIdentity { provider_id, worker_pool_id, worker_group, worker_id } = identity;
        for public in [root_url, provider_id, worker_pool_id.as_str(), worker_group, worker_id] {
            self.secrets.allow(public);
        }
    }

    pub(super) fn know(&self, credentials: &Credentials) {
        self.secrets.add_credentials(&credentials.access_token, credentials.certificate.as_ref());
    }
}

/// The run of an identified worker, before secrets.
pub(super) fn run_of(identified: Identified, credentials: Credentials) -> Run {
    Run {
        root_url: identified.root_url,
        identity: identified.identity,
        credentials,
        worker_location: identified.worker_location,
        provider_metadata: identified.provider_metadata,
        worker_config: crate::run_spec::worker_config::Merged::new(),
        parts: Parts::default(),
        files: Vec::new(),
        registration_secret: None,
        launch_config_id: identified.launch_config_id,
    }
}
