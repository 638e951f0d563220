//! The pipeline that creates a [`Run`]: cache or provider → registration → secrets → files.
//!
//! A worker that may register any number of times (static) does so at every start, and falls back on the cached run if
//! Taskcluster does not answer. A worker that may register once (clouds) stores the registration in the cache before
//! any other step can fail.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::config::{Implementation, ProviderConfig, RunnerConfig};
use crate::error_chain::ErrorChain;
use crate::host::blocking::Lanes;
use crate::host::lock::Lock;
use crate::provider::{self, Identified, MetadataOrigins, Proof};
use crate::redact::Secrets;
use crate::registration::Registrar;
use crate::run_spec::cache::{CacheWriter, CachedRun, Stage};
use crate::run_spec::{Parts, Run, WorkerIdentity};
use crate::taskcluster::{Client, InFlight, Proxies};
use crate::telemetry::counters::Counters;
use crate::telemetry::current_retry::CurrentRetry;
use crate::worker;

mod cached;
mod error;
pub mod explain;
mod files;
mod legacy;
mod limits;
mod lock;
mod offline;
mod outside;
mod patience;
pub mod probe;
mod register;

pub use cached::outdated;
pub use error::{FailureKind, PrepareError};
use limits::Limits;
pub use offline::{Offline, offline};
use outside::Layers;
use patience::Patience;
use register::run_of;

/// Time limit for registering a static worker before it starts with its cached run.
const REGISTRATION_BEFORE_CACHE: Duration = Duration::from_secs(60);

/// Delay after a refusal before a static worker, which nothing else restarts, retries: the cause may have been
/// corrected by then.
const AFTER_REFUSAL: Duration = Duration::from_secs(600);

/// The default of `startTimeout` for dynamic hosts.
const DYNAMIC_START: Duration = Duration::from_secs(15 * 60);

/// Receives the root URL and the worker's identity.
pub type OnIdentified = Box<dyn Fn(&str, &WorkerIdentity) + Send + Sync>;

/// The parts of the environment and of the runner that a start uses.
pub struct Context {
    pub clock: Arc<dyn Clock>,
    pub proxies: Proxies,
    /// The addresses of the metadata services.
    pub metadata: MetadataOrigins,
    /// The directory of the lock.
    pub runtime_directory: Option<std::path::PathBuf>,
    /// The secrets to mask in all output.
    pub secrets: Secrets,
    /// The lanes for calls that can hang.
    pub lanes: Lanes,
    pub counters: Counters,
    /// Called as soon as the provider or the cached run has determined the worker's identity, before any step that can
    /// fail because of it.
    pub on_identified: OnIdentified,
}

/// Creates runs. It lives as long as the runner, because its lock and its cache belong to this worker.
pub struct Preparer {
    pub config: Arc<RunnerConfig>,
    pub clock: Arc<dyn Clock>,
    pub proxies: Proxies,
    /// The addresses of the metadata services.
    pub metadata: MetadataOrigins,
    /// The directory of the lock.
    pub runtime_directory: Option<std::path::PathBuf>,
    /// The secrets to mask in all output.
    pub secrets: Secrets,
    pub cache_writer: CacheWriter,
    /// The operation that is currently retried.
    pub trouble: CurrentRetry,
    pub counters: Counters,
    /// Called as soon as the provider or the cached run has determined the worker's identity, before any step that can
    /// fail because of it.
    pub on_identified: OnIdentified,
    pub limits: Limits,
    /// The lanes for calls that can hang.
    pub lanes: Lanes,
    lock: Option<Lock>,
    cache_lock: Option<Lock>,
    in_flight: InFlight,
    /// True once the provider has identified the worker.
    identified: bool,
    /// The registration of a start that failed afterwards: it allows the machine to be removed.
    registered: Option<(Registrar, CachedRun)>,
}

/// A worker to supervise, with everything that this requires.
pub struct Prepared {
    /// The run in its cached form.
    pub cached: CachedRun,
    /// Reports errors to worker-manager, and asks it to remove the worker; `None`: worker-manager does not know this
    /// worker.
    pub registrar: Option<Registrar>,
}

/// The result of a start.
pub enum Ready {
    /// A worker to start.
    Run(Box<Prepared>),
    /// No worker: this machine leaves. Contains the cached run.
    Leaving(Box<Prepared>),
}

impl Preparer {
    /// Must be called within the runtime.
    pub fn new(config: Arc<RunnerConfig>, context: Context) -> Self {
        let Context { clock, proxies, metadata, runtime_directory, secrets, lanes, counters, on_identified } =
            context;
        let dummy = matches!(config.worker.implementation, Implementation::Dummy { .. });
        // A dummy run leaves nothing behind.
        let cache = config.cache_over_restarts.clone().filter(|_| !dummy);
        Self {
            clock,
            proxies,
            metadata,
            runtime_directory,
            secrets,
            cache_writer: CacheWriter::new(cache),
            trouble: CurrentRetry::default(),
            counters,
            on_identified,
            limits: Limits::default(),
            lanes,
            lock: None,
            cache_lock: None,
            in_flight: InFlight::default(),
            identified: false,
            registered: None,
            config,
        }
    }

    /// Determines everything for one start of the worker. Retries temporary failures; on a host that nothing replaces,
    /// also retries failures that people have to correct.
    ///
    /// # Errors
    ///
    /// [`PrepareError::kind`] determines the possible reactions.
    pub async fn prepare(&mut self) -> Result<Ready, PrepareError> {
        let timeout = self.config.start_timeout.or(self.dynamic().then_some(DYNAMIC_START));
        let patience = Patience(timeout.map(|timeout| Instant::now() + timeout));
        loop {
            let cause = match self.attempt(patience).await {
                Err(cause) if cause.kind() == FailureKind::Refused && !self.dynamic() => cause,
                Ok(ready) => {
                    // The run contains the registration now.
                    self.registered = None;
                    self.secrets.start_succeeded();
                    return Ok(ready);
                }
                Err(cause) => return Err(cause),
            };
            if patience.left().is_some_and(|left| left < AFTER_REFUSAL) {
                return Err(cause);
            }
            error!(name: "start-waiting", error = %ErrorChain(&cause), again_in = "10m", "the worker cannot start yet");
            self.trouble.tell(&ErrorChain(&cause).to_string());
            let _over = self.trouble.until_dropped();
            tokio::time::sleep(AFTER_REFUSAL).await;
        }
    }

    /// Registers a static worker again, with all subsequent steps. `limit` applies to each step; the cache is not read.
    /// On failure, nothing has changed.
    pub async fn prepare_anew(&mut self, limit: Duration) -> Result<Prepared, PrepareError> {
        let patience = Patience(None).within(limit);
        self.secrets.begin_start();
        let identified = self.identify(patience).await?;
        let prepared = self.fresh(identified, None, patience).await?;
        self.secrets.start_succeeded();
        Ok(prepared)
    }

    /// Determines a run for inspection: writes nothing, and changes nothing on this host. Steps that are possible only
    /// once (a cloud's registration, the legacy provisioner's secret) are skipped.
    pub async fn look(&mut self) -> Result<Run, PrepareError> {
        if !self.dynamic() {
            let timeout = self.config.start_timeout.unwrap_or(DYNAMIC_START);
            return match self.attempt(Patience(Some(Instant::now() + timeout))).await? {
                Ready::Run(prepared) => Ok(prepared.cached.run),
                // Only the cache can say so, and a dummy run does not read it.
                Ready::Leaving(_) => Ok(offline(&self.config).run),
            };
        }
        let patience = Patience(Some(Instant::now() + self.config.start_timeout.unwrap_or(DYNAMIC_START)));
        let identified = self.identify(patience).await?;
        info!("not registered, and no secret fetched: a machine of this provider can do so only once");
        let mut layers = Layers::default();
        if let Some(config) = identified.own_config.clone() {
            layers.take_user_data(config);
        }
        let mut run = run_of(identified, offline::no_credentials());
        run.parts = Parts::Apart(layers.layers);
        run.worker_config = run.parts.merge_with(&self.config.worker_config);
        Ok(run)
    }

    /// The requests to Taskcluster in flight, including those of earlier runs.
    pub fn in_flight(&self) -> InFlight {
        self.in_flight.clone()
    }

    /// Returns true once the provider has identified the worker.
    pub fn identified(&self) -> bool {
        self.identified
    }

    /// The registration of the last start, if it succeeded.
    pub fn registered(&self) -> Option<(Registrar, CachedRun)> {
        self.registered.clone()
    }

    fn dynamic(&self) -> bool {
        self.config.provider.is_dynamic()
    }

    async fn attempt(&mut self, patience: Patience) -> Result<Ready, PrepareError> {
        self.secrets.begin_start();
        let identified = match provider::identify_offline(&self.config.provider) {
            Some(identified) => Some(identified?),
            None => None,
        };
        let cached = match self.cached(identified.as_ref()).await? {
            Some(cached) if cached.leaving.is_some() => return self.leaving(cached).await,
            cached => cached,
        };
        let prepared = match (identified, cached) {
            (Some(identified), cached) if matches!(self.config.provider, ProviderConfig::Static(_)) => {
                self.static_worker(identified, cached, patience).await?
            }
            (_, Some(cached)) => self.resume(cached, patience).await?,
            (Some(identified), None) => self.fresh(identified, None, patience).await?,
            (None, None) => {
                let identified = self.identify(patience).await?;
                self.fresh(identified, None, patience).await?
            }
        };
        Ok(Ready::Run(Box::new(prepared)))
    }

    async fn identify(&self, patience: Patience) -> Result<Identified, PrepareError> {
        let implementation = self.config.worker.implementation.name();
        let patience = provider::Patience { time: patience.left(), trouble: self.trouble.clone() };
        Ok(provider::identify(&self.config.provider, &self.metadata, implementation, patience).await?)
    }

    /// Registers first. If Taskcluster does not answer within a minute, the cached run is used.
    async fn static_worker(
        &mut self,
        identified: Identified,
        cached: Option<CachedRun>,
        patience: Patience,
    ) -> Result<Prepared, PrepareError> {
        let now = self.clock.now();
        let usable =
            |cached: &&CachedRun| cached.stage == Stage::Complete && cached.run.credentials.usable(now);
        let Some(fall_back) = cached.as_ref().filter(usable).cloned() else {
            return self.fresh(identified, cached, patience).await;
        };
        let limit = patience.within(REGISTRATION_BEFORE_CACHE);
        match self.fresh(identified.clone(), cached, limit).await {
            Err(cause) if cause.kind() == FailureKind::Unreachable => {
                warn!(name: "cached-run-used", error = %ErrorChain(&cause), "Taskcluster cannot be reached: starting with the cached run");
                match self.resume(fall_back, patience).await {
                    // The credentials have expired meanwhile.
                    Err(PrepareError::CachedExpired { .. }) => self.fresh(identified, None, patience).await,
                    result => result,
                }
            }
            result => result,
        }
    }

    /// The steps from an identity to a run: registration, secrets, files, cache. `before`: the cached run of the same
    /// worker, which the new run replaces.
    async fn fresh(
        &mut self,
        identified: Identified,
        before: Option<CachedRun>,
        patience: Patience,
    ) -> Result<Prepared, PrepareError> {
        self.known(&identified.root_url, &identified.identity);
        (self.on_identified)(&identified.root_url, &identified.identity);
        self.lock(&identified.identity).await?;
        let client = self.client(&identified.root_url)?;
        let mut layers = Layers::default();
        let mut from_registration = None;
        let (run, registrar) = match identified.proof.clone() {
            Proof::Credentials(credentials) => {
                self.know(&credentials);
                // Credentials that are about to expire are used until their last quarter.
                if let Some(at) = credentials.expires.filter(|at| *at <= self.clock.now()) {
                    return Err(PrepareError::StandaloneExpired(at));
                }
                if let Some(valid_from) =
                    crate::provider::not_yet_valid(&self.config.provider, self.clock.now())
                {
                    warn!(name: "credentials-not-yet-valid", %valid_from, "the credentials are not valid yet, and the worker's calls are refused until then: wait, get others, or set the host's clock");
                }
                (run_of(identified, credentials), None)
            }
            Proof::Registration(proof) => {
                self.limits.next_registration().await;
                let (run, registrar, config) = self.register(identified, &proof, &client, patience).await?;
                from_registration = Some(config);
                (run, Some(registrar))
            }
            Proof::ProvisionerSecret(token) => {
                layers.take_user_data(identified.own_config.clone().unwrap_or_default());
                (self.legacy(identified, &token, &client, patience).await?, None)
            }
        };
        let provider_type = self.config.provider.provider_type();
        let mut cached =
            before.unwrap_or_else(|| CachedRun::new(run.clone(), provider_type, Stage::Registered));
        cached.run = run;
        cached.provider_type = Some(provider_type.to_owned());
        cached.stage = Stage::Registered;
        // Kept even if the configuration of the registration is unusable, because it allows the machine to be removed.
        self.registered = registrar.clone().map(|registrar| (registrar, cached.clone()));
        if let Some(config) = from_registration {
            layers.take_provider(&config, self.config.worker.implementation.name())?;
        }
        cached.run.parts = Parts::Apart(layers.layers);
        cached.run.files = layers.files;
        if self.dynamic() {
            // The registration cannot be repeated.
            self.save(&mut cached).await?;
        }
        self.registered = registrar.clone().map(|registrar| (registrar, cached.clone()));
        self.complete(cached, client, registrar, patience).await
    }

    /// The steps after the credentials: secrets, files, cache.
    async fn complete(
        &self,
        mut cached: CachedRun,
        client: Client,
        registrar: Option<Registrar>,
        patience: Patience,
    ) -> Result<Prepared, PrepareError> {
        let run = &mut cached.run;
        let mut layers = Layers::default();
        if self.config.get_secrets {
            let pool = run.identity.worker_pool_id.as_str();
            layers.take_secrets(&client, &run.credentials, pool, patience.effort(), &self.secrets).await?;
        }
        if let Parts::Apart(known) = &mut run.parts {
            known.append(&mut layers.layers);
        }
        run.files.append(&mut layers.files);
        run.worker_config = run.parts.merge_with(&self.config.worker_config);
        if !self.dummy() && !run.files.is_empty() {
            self.write_files(run.files.clone()).await?;
        }
        cached.stage = Stage::Complete;
        self.save(&mut cached).await?;
        Ok(Prepared { cached, registrar })
    }

    /// Writes the run to the cache, if there is one. It contains the complete worker configuration, with which the Go
    /// program would start.
    async fn save(&self, cached: &mut CachedRun) -> Result<(), PrepareError> {
        cached.merge(&self.config.worker_config);
        let whole = worker::final_config(&cached.run, &self.config.worker)?;
        self.cache_writer.save(cached.encode(whole.object())).await;
        Ok(())
    }

    fn dummy(&self) -> bool {
        matches!(self.config.worker.implementation, Implementation::Dummy { .. })
    }
}
