//! The legacy aws-provisioner: its secret is fetched once, and always removed, because anybody with its token can read
//! it.

use std::time::Duration;

use jiff::SignedDuration;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tracing::info;

use super::outside::Layers;
use super::register::run_of;
use super::{Patience, PrepareError, Preparer};
use crate::provider::Identified;
use crate::run_spec::worker_config::Source;
use crate::run_spec::{Object, Run};
use crate::taskcluster::{Client, Effort};

/// The lifetime of the provisioner's credentials, which its answer does not contain.
const LIFE: SignedDuration = SignedDuration::from_hours(96);

/// Time limit of the removal. It is separate from the start's time limit, which fetching the secret may have used up.
const REMOVAL: Duration = Duration::from_secs(60);

impl Preparer {
    pub(super) async fn legacy(
        &self,
        identified: Identified,
        token: &SecretString,
        client: &Client,
        patience: Patience,
    ) -> Result<Run, PrepareError> {
        self.secrets.add(token.expose_secret());
        let got = client.provisioner_secret(token, patience.effort()).await;
        // Removed whether fetching it succeeded or not.
        let removed = client.remove_provisioner_secret(token, Effort::For(REMOVAL)).await;
        let secret = got.map_err(|cause| PrepareError::Secret {
            name: "of the aws-provisioner".to_owned(),
            cause,
            client_id: None,
        })?;
        match removed {
            // An earlier attempt succeeded, and its answer was lost.
            Err(cause) if !cause.is_not_found() => return Err(PrepareError::SecretStays(cause)),
            Ok(()) | Err(_) => {}
        }
        if let Ok(data) = serde_json::from_str::<Value>(secret.data.get()) {
            self.secrets.add_all(&data);
        }
        self.know(&secret.credentials);
        let identity = &identified.identity;
        info!(
            root_url = identified.root_url, worker_pool = %identity.worker_pool_id,
            worker_group = identity.worker_group, worker_id = identity.worker_id,
            "the aws-provisioner has given the worker its credentials"
        );
        let now = self.clock.now();
        let mut credentials = secret.credentials;
        credentials.expires = now.checked_add(LIFE).ok();
        credentials.obtained = Some(now);
        Ok(run_of(identified, credentials))
    }
}

impl Layers {
    /// Adds the worker configuration from the user-data.
    pub(super) fn take_user_data(&mut self, config: Object) {
        self.layers.push((Source::Provider, config));
    }
}
