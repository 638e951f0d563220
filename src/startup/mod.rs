//! The pipeline that makes a [`Run`]: cache or provider → registration → secrets → files.
//!
//! Who may register as often as it likes (static) does so at every start, and falls back on the cached run where
//! nobody answers. Who may register once (clouds) keeps the registration in the cache before anything else can fail.

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

/// How long a static worker tries to register before it starts with its cached run.
const REGISTRATION_BEFORE_CACHE: Duration = Duration::from_secs(60);

/// After a refusal a static worker, for which nobody else will, tries again: by then somebody may have changed it.
const AFTER_REFUSAL: Duration = Duration::from_secs(600);

/// How long a dynamic host tries to start, unless `startTimeout` says otherwise.
const DYNAMIC_START: Duration = Duration::from_secs(15 * 60);

/// Receives the root URL and the worker's identity.
pub type OnIdentified = Box<dyn Fn(&str, &WorkerIdentity) + Send + Sync>;

/// The parts of the outside world and of the runner that a start uses.
pub struct Context {
    /// Tells the wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// The way to Taskcluster.
    pub proxies: Proxies,
    /// The addresses of the metadata services.
    pub metadata: MetadataOrigins,
    /// The directory of the lock.
    pub runtime_directory: Option<std::path::PathBuf>,
    /// The secrets that are masked in whatever is shown.
    pub secrets: Secrets,
    /// The lanes for calls that can hang.
    pub lanes: Lanes,
    /// The runner's counters.
    pub counters: Counters,
    /// Called as soon as the provider or the cached run has determined the worker's identity, before anything that can
    /// fail because of it.
    pub on_identified: OnIdentified,
}

/// What runs are made from and with. It lives as long as the runner: its lock and its cache are this worker's.
pub struct Preparer {
    /// The runner configuration.
    pub config: Arc<RunnerConfig>,
    /// Tells the wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// The way to Taskcluster.
    pub proxies: Proxies,
    /// Where the metadata services are.
    pub metadata: MetadataOrigins,
    /// Where the lock goes.
    pub runtime_directory: Option<std::path::PathBuf>,
    /// What must not be shown.
    pub secrets: Secrets,
    /// The one writer of the cache.
    pub cache_writer: CacheWriter,
    /// What is tried again.
    pub trouble: CurrentRetry,
    /// What is counted.
    pub counters: Counters,
    /// Called as soon as the provider or the cached run has determined the worker's identity, before anything that can
    /// fail because of it.
    pub on_identified: OnIdentified,
    /// What is not done more often than that.
    pub limits: Limits,
    /// The lanes for calls that can hang.
    pub lanes: Lanes,
    lock: Option<Lock>,
    cache_lock: Option<Lock>,
    in_flight: InFlight,
    /// Whether the provider has said who the worker is.
    identified: bool,
    /// The registration of a start that went no further: with it the machine can be removed.
    registered: Option<(Registrar, CachedRun)>,
}

/// Who the runner is to supervise, with everything it needs.
pub struct Prepared {
    /// The run, as it is cached.
    pub cached: CachedRun,
    /// Whom it can tell of errors, and ask to remove the worker; `None`: worker-manager does not know this worker.
    pub registrar: Option<Registrar>,
}

/// What has come of a start.
pub enum Ready {
    /// A worker to start.
    Run(Box<Prepared>),
    /// None: this machine leaves. Its run is as it is cached.
    Leaving(Box<Prepared>),
}

impl Preparer {
    /// Must be made within the runtime.
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

    /// Determines everything for one start of the worker. What may pass is waited for; a host that nobody replaces
    /// also waits for what somebody has to change.
    ///
    /// # Errors
    ///
    /// [`PrepareError::kind`] tells what may be done about it.
    pub async fn prepare(&mut self) -> Result<Ready, PrepareError> {
        let timeout = self.config.start_timeout.or(self.dynamic().then_some(DYNAMIC_START));
        let patience = Patience(timeout.map(|timeout| Instant::now() + timeout));
        loop {
            let cause = match self.attempt(patience).await {
                Err(cause) if cause.kind() == FailureKind::Refused && !self.dynamic() => cause,
                Ok(ready) => {
                    // Whoever keeps the run has it.
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

    /// Registers a static worker anew, with everything that follows. `limit` is each step's; the cache is not looked
    /// at.
    ///
    /// # Errors
    ///
    /// Nothing has changed then.
    pub async fn prepare_anew(&mut self, limit: Duration) -> Result<Prepared, PrepareError> {
        let patience = Patience(None).within(limit);
        self.secrets.begin_start();
        let identified = self.identify(patience).await?;
        let prepared = self.fresh(identified, None, patience).await?;
        self.secrets.start_succeeded();
        Ok(prepared)
    }

    /// Determines a run to look at: nothing is written, nothing else on this host is changed. What can be had only once
    /// (a cloud's registration, the legacy provisioner's secret) is left alone.
    ///
    /// # Errors
    ///
    /// As [`prepare`](Self::prepare).
    pub async fn look(&mut self) -> Result<Run, PrepareError> {
        if !self.dynamic() {
            let timeout = self.config.start_timeout.unwrap_or(DYNAMIC_START);
            return match self.attempt(Patience(Some(Instant::now() + timeout))).await? {
                Ready::Run(prepared) => Ok(prepared.cached.run),
                // Without a cache, which a dummy run does not read, nobody can say so.
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

    /// The requests to Taskcluster that are on their way, also those of the runs that were made.
    pub fn in_flight(&self) -> InFlight {
        self.in_flight.clone()
    }

    /// Whether the provider has said who the worker is.
    pub fn identified(&self) -> bool {
        self.identified
    }

    /// The registration of the last start, where that came so far.
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

    /// Registers first. Where nobody answers for a minute, the cached run serves.
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
                    // They have run out while that was tried.
                    Err(PrepareError::CachedExpired { .. }) => self.fresh(identified, None, patience).await,
                    result => result,
                }
            }
            result => result,
        }
    }

    /// From an identity to a run: registration, secrets, files, cache. `before`: the cache of the same worker, in whose
    /// place the new run goes.
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
                // Those that are about to expire are used up to their last quarter.
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
        // Also where the configuration that came with it is of no use: with it the machine can be removed.
        self.registered = registrar.clone().map(|registrar| (registrar, cached.clone()));
        if let Some(config) = from_registration {
            layers.take_provider(&config, self.config.worker.implementation.name())?;
        }
        cached.run.parts = Parts::Apart(layers.layers);
        cached.run.files = layers.files;
        if self.dynamic() {
            // It cannot be had twice.
            self.save(&mut cached).await?;
        }
        self.registered = registrar.clone().map(|registrar| (registrar, cached.clone()));
        self.complete(cached, client, registrar, patience).await
    }

    /// Secrets, files, cache: what is left once there are credentials.
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

    /// Brings the run to the disk, where there is a cache. What the Go program would start with is the whole.
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
