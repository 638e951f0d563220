//! Starts from a cached run, without repeating its calls.

use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;
use tracing::{info, warn};

use super::{Patience, PrepareError, Prepared, Preparer, Ready};
use crate::config::{ProviderConfig, RunnerConfig};
use crate::credentials::Credentials;
use crate::host::private_file::Access;
use crate::provider::{Identified, Proof};
use crate::registration::Registrar;
use crate::run_spec::cache::{self, CacheError, CachedRun, Expected, Stage};
use crate::run_spec::files::FileOrigin;
use crate::taskcluster::{Effort, result_of};

/// Time limit of the cache's disk.
const READ: Duration = Duration::from_secs(30);

/// Time limit of a due renewal before a cached run starts.
const RENEWAL: Duration = Duration::from_secs(30);

impl Preparer {
    /// Reads the cached run, if there is one and it is this worker's. `identified`: the worker's identity, if the
    /// runner configuration contains it.
    pub(super) async fn cached(
        &mut self,
        identified: Option<&Identified>,
    ) -> Result<Option<CachedRun>, PrepareError> {
        self.sweep().await?;
        let Some(path) = self.cache_path().map(Path::to_owned) else { return Ok(None) };
        let dynamic = self.dynamic();
        let place = path.clone();
        self.lock_cache().await?;
        let read = self.lanes.cache.at(&path, READ, move || cache::read(&place, Access::Refuse)).await?;
        let refused = |cause: CacheError| PrepareError::Cache { advice: cause.advice(dynamic), cause };
        let Some(cached) = read.map_err(refused)? else { return Ok(None) };
        // The files of a cached run are not written again, so no other step would look there.
        self.sweep_beside(&cached.run.files).await?;
        for warning in &cached.warnings {
            warn!("{warning}");
        }
        self.known(&cached.run.root_url, &cached.run.identity);
        self.know(&cached.run.credentials);
        if let Some(secret) = &cached.run.registration_secret {
            self.secrets.add(secret.expose_secret());
        }
        cached
            .run
            .parts
            .secrets()
            .flat_map(|layer| layer.values())
            .for_each(|value| self.secrets.add_all(value));
        let from_secrets = cached.run.files.iter().filter(|file| file.origin == FileOrigin::Secret);
        from_secrets.for_each(|file| file.entry.add_to(&self.secrets));
        let why = match identified {
            Some(identified) => stale(&self.config, &cached, identified),
            None => other_provider(&self.config, &cached),
        };
        if let Some(why) = why {
            warn!(name: "cached-run-stale", cache = %path.display(), "the cached run is stale: {why}; starting afresh");
            return Ok(None);
        }
        (self.on_identified)(&cached.run.root_url, &cached.run.identity);
        Ok(Some(cached))
    }

    /// The cache's path; `None`: nothing is cached.
    pub(super) fn cache_path(&self) -> Option<&Path> {
        self.config.cache_over_restarts.as_deref().filter(|_| !self.dummy())
    }

    /// Continues from a cached run.
    pub(super) async fn resume(
        &mut self,
        mut cached: CachedRun,
        patience: Patience,
    ) -> Result<Prepared, PrepareError> {
        self.lock(&cached.run.identity).await?;
        let client = self.client(&cached.run.root_url)?;
        let registrar = self.registrar(&cached)?;
        let renewed = self.renew_if_due(&mut cached, registrar.as_ref()).await;
        self.registered = registrar.clone().map(|registrar| (registrar, cached.clone()));
        renewed?;
        let identity = &cached.run.identity;
        info!(name: "cached-run-used",
            root_url = cached.run.root_url, worker_pool = %identity.worker_pool_id,
            worker_group = identity.worker_group, worker_id = identity.worker_id,
            credentials_expire = %cached.run.credentials.expires.map(|time| format!("{time:.0}")).unwrap_or_default(),
            "going on with the cached run"
        );
        if cached.stage == Stage::Registered {
            return self.complete(cached, client, registrar, patience).await;
        }
        self.save(&mut cached).await?;
        Ok(Prepared { cached, registrar })
    }

    /// Returns a machine that leaves.
    pub(super) async fn leaving(&mut self, cached: CachedRun) -> Result<Ready, PrepareError> {
        self.lock(&cached.run.identity).await?;
        let registrar = self.registrar(&cached)?;
        Ok(Ready::Leaving(Box::new(Prepared { cached, registrar })))
    }

    /// The cached worker's registration; `None`: worker-manager does not know the worker.
    pub(super) fn registrar(&self, cached: &CachedRun) -> Result<Option<Registrar>, PrepareError> {
        if cached.run.registration_secret.is_none() {
            return Ok(None);
        }
        let proof = match &self.config.provider {
            ProviderConfig::Static(config) => Some(crate::provider::static_proof(config)),
            _ => None,
        };
        let client = self.client(&cached.run.root_url)?;
        Ok(Some(Registrar::new(client, &cached.run.identity, proof)))
    }

    /// Renews due credentials before the worker starts, if that succeeds quickly.
    async fn renew_if_due(
        &self,
        cached: &mut CachedRun,
        registrar: Option<&Registrar>,
    ) -> Result<(), PrepareError> {
        let now = self.clock.now();
        let run = &mut cached.run;
        let due = run.credentials.renewal_in(now).is_some_and(|time| time.is_zero());
        if let (true, Some(registrar), Some(secret)) = (due, registrar, &run.registration_secret)
            && !expired(&run.credentials, now)
        {
            let renewed = registrar.renew(&run.credentials, secret, Effort::For(RENEWAL)).await;
            self.counters.renewals.count([result_of(&renewed)]);
            match renewed {
                Ok(renewed) => {
                    self.know(&renewed.credentials);
                    self.secrets.add(renewed.secret.expose_secret());
                    run.credentials = renewed.credentials;
                    run.registration_secret = Some(renewed.secret);
                    info!(name: "credentials-renewed", "credentials renewed");
                    // The old secret is invalid now.
                    self.save(cached).await?;
                }
                Err(cause) => {
                    warn!(name: "credentials-renewal-failed", error = %cause, "credentials are due and cannot be renewed yet");
                }
            }
        }
        let credentials = &cached.run.credentials;
        let now = self.clock.now();
        match credentials.expires {
            Some(at) if matches!(self.config.provider, ProviderConfig::Standalone(_)) => {
                if at <= now {
                    Err(PrepareError::StandaloneExpired(at))
                } else {
                    Ok(())
                }
            }
            Some(at) if !credentials.usable(now) => {
                let path = self.cache_path().map(Path::to_owned).unwrap_or_default();
                Err(PrepareError::CachedExpired { path, at, soon: at > now })
            }
            _ => Ok(()),
        }
    }
}

/// The reason why a start would not use this cached run but begin anew, as far as it can be determined offline.
pub fn outdated(config: &RunnerConfig, cached: &CachedRun) -> Option<String> {
    match crate::provider::identify_offline(&config.provider) {
        Some(Ok(identified)) => stale(config, cached, &identified),
        // A start fails before this step.
        Some(Err(_)) => None,
        None => other_provider(config, cached),
    }
}

/// The difference between the runner configuration and the cached run that shows that the run is not this worker's any
/// more.
fn stale(config: &RunnerConfig, cached: &CachedRun, identified: &Identified) -> Option<String> {
    let expected = Expected {
        root_url: &identified.root_url,
        provider_type: config.provider.provider_type(),
        worker_pool_id: identified.identity.worker_pool_id.as_str(),
        worker_group: &identified.identity.worker_group,
        worker_id: &identified.identity.worker_id,
    };
    cached.mismatch(&expected).or_else(|| match &identified.proof {
        Proof::Credentials(now) if !same(now, &cached.run.credentials) => {
            Some("the runner configuration has other credentials".to_owned())
        }
        _ => None,
    })
}

/// For a cloud's machine, nothing else is known before the metadata service is queried.
fn other_provider(config: &RunnerConfig, cached: &CachedRun) -> Option<String> {
    let now = config.provider.provider_type();
    let before = cached.likely_provider_type().filter(|before| *before != now)?;
    Some(format!("written for provider type {before}, the runner configuration now says {now}"))
}

fn expired(credentials: &Credentials, now: jiff::Timestamp) -> bool {
    credentials.expires.is_some_and(|expires| expires <= now)
}

fn same(one: &Credentials, other: &Credentials) -> bool {
    let certificate = |credentials: &Credentials| {
        credentials.certificate.as_ref().map(|secret| secret.expose_secret().to_owned())
    };
    one.client_id == other.client_id
        && one.access_token.expose_secret() == other.access_token.expose_secret()
        && certificate(one) == certificate(other)
}
