//! Renews the worker's credentials before they expire, by the wall clock. New ones go first to the cache, then to the
//! worker's files, then to the worker.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use crate::clock::{Clock, wait_until};
use crate::config::WorkerSettings;
use crate::credentials::Credentials;
use crate::event::{Cause, Event, Strength};
use crate::redact::Secrets;
use crate::registration::deregister::Current;
use crate::registration::{Registrar, Renewed};
use crate::run_spec::cache::{CacheWriter, CachedRun};
use crate::taskcluster::{CALL_EVERY, CallError, Effort, result_of};
use crate::telemetry::status_board::StatusPublisher;
use crate::worker::{self, Launch, LaunchSpec, WorkerError};

#[cfg(test)]
mod tests;

/// The minimum wait after a refusal. Only a worker that may register again retries after a refusal.
const AFTER_REFUSAL: SignedDuration = SignedDuration::from_mins(10);

/// The maximum fraction of the wait by which a renewal is early, so that workers that started together do not renew
/// together.
const JITTER: f64 = 0.1;

/// New credentials whose renewal is due at once are renewed after this time, or after a quarter of their lifetime if
/// that is less: the host's clock may be days ahead, and the deployment must not be called without end.
const AT_MOST_EVERY: SignedDuration = SignedDuration::from_mins(1);

/// Exchanges old credentials for new ones: worker-manager, called by a [`Registrar`].
pub trait Renews: Send + Sync {
    /// Returns new credentials, and the secret for the next renewal. Fails if worker-manager refuses, or does not
    /// answer within the effort.
    fn renew(
        &self,
        credentials: &Credentials,
        secret: &SecretString,
        effort: Effort,
    ) -> impl Future<Output = Result<Renewed, CallError>> + Send;
}

impl Renews for Registrar {
    async fn renew(
        &self,
        credentials: &Credentials,
        secret: &SecretString,
        effort: Effort,
    ) -> Result<Renewed, CallError> {
        Self::renew(self, credentials, secret, effort).await
    }
}

/// The parameters for renewing one run's credentials.
pub struct Renewal<R = Registrar> {
    pub registrar: R,
    /// True if a refusal may be temporary, because the worker may register again at any time (static).
    pub may_register_again: bool,
    /// The cached run with the credentials.
    pub current: Current,
    /// The runner configuration's `worker`.
    pub settings: WorkerSettings,
    pub cache_writer: CacheWriter,
    pub clock: Arc<dyn Clock>,
    /// Receives the new secrets.
    pub secrets: Secrets,
    /// Publishes the time of the next renewal.
    pub publisher: StatusPublisher,
    /// Passes the latest launch to the supervisor.
    pub launches: watch::Sender<LaunchSpec>,
    /// Sends events to the supervisor.
    pub events: mpsc::Sender<Event>,
}

impl<R: Renews> Renewal<R> {
    /// Renews until the supervisor is gone, or until renewals have failed for so long that the worker had to be
    /// stopped.
    pub async fn keep(self) {
        // These tasks end with this one.
        let mut old = JoinSet::new();
        // However short their lifetime is, renewed credentials are not renewed at once.
        let (mut if_due_again, mut soonest) = (SignedDuration::ZERO, SignedDuration::ZERO);
        let mut renewals = 0;
        while let Some(wait) = self.credentials().renewal_in(self.clock.now()) {
            let wait = if wait.is_zero() { if_due_again } else { wait };
            let due = self.clock.now().saturating_add(earlier(wait).max(soonest)).unwrap_or(Timestamp::MAX);
            debug!(%due, "credentials are renewed then");
            self.publisher.publish_renewal(Some(due));
            wait_until(due, &*self.clock).await;
            let Some(last_use) = self.credentials().last_use() else { return };
            let Ok(renewed) = self.renew(last_use).await else {
                self.publisher.publish_renewal(None);
                wait_until(last_use, &*self.clock).await;
                error!(name: "credentials-expired", expired_at = ?self.credentials().expires, "the worker's credentials run out and could not be renewed: it is stopped");
                self.send(Event::Asked { strength: Strength::Stop, cause: Cause::CredentialsExpiring }).await;
                return;
            };
            self.install(renewed, renewals + 1).await;
            if_due_again = at_most_every(&self.credentials());
            soonest = SignedDuration::try_from(CALL_EVERY).unwrap_or(if_due_again);
            while old.try_join_next().is_some() {}
            old.spawn(tell_of_end(last_use, renewals, self.clock.clone(), self.events.clone()));
            renewals += 1;
        }
    }

    /// Retries until the credentials expire. After a refusal, waits before the next attempt; a worker that can register
    /// only once does not retry.
    async fn renew(&self, last_use: Timestamp) -> Result<Renewed, CallError> {
        let (credentials, secret) =
            self.with(|cached| (cached.run.credentials.clone(), cached.run.registration_secret.clone()));
        let Some(secret) = secret else { std::future::pending().await };
        loop {
            let renewed = self.registrar.renew(&credentials, &secret, Effort::Until(last_use)).await;
            self.publisher.counters().renewals.count([result_of(&renewed)]);
            let cause = match renewed {
                Ok(renewed) => return Ok(renewed),
                Err(cause) => cause,
            };
            let again = self.clock.now().saturating_add(AFTER_REFUSAL).unwrap_or(last_use);
            if !cause.refused() || !self.may_register_again || again >= last_use {
                warn!(name: "credentials-renewal-failed", error = %cause, usable_until = %format!("{last_use:.0}"), "credentials cannot be renewed: the worker goes on while they are of use");
                return Err(cause);
            }
            warn!(name: "credentials-renewal-failed", error = %cause, again = %format!("{again:.0}"), "credentials cannot be renewed yet");
            self.publisher.publish_renewal(Some(again));
            wait_until(again, &*self.clock).await;
        }
    }

    /// Installs the new credentials. The cache is written first, because the secret for the next renewal exists nowhere
    /// else.
    async fn install(&self, renewed: Renewed, renewals: u32) {
        let Renewed { credentials, secret } = renewed;
        let certificate = credentials.certificate.as_ref();
        self.secrets.add_renewed(&credentials.access_token, certificate, &secret);
        let expires = credentials.expires.map(|time| format!("{time:.0}")).unwrap_or_default();
        info!(name: "credentials-renewed", expires, "credentials renewed");
        let made = self.with(|cached| {
            cached.run.credentials = credentials;
            cached.run.registration_secret = Some(secret);
            let whole = worker::final_config(&cached.run, &self.settings)?;
            Ok::<_, WorkerError>((
                cached.encode(whole.object()),
                worker::launch(&cached.run, &self.settings)?,
            ))
        });
        // The launch could be made at the start, so it can be made again.
        let Ok((encoded, Launch::Start(spec))) = made else { return };
        self.cache_writer.renew(encoded).await;
        self.launches.send_replace(LaunchSpec { renewals, ..*spec });
    }

    fn credentials(&self) -> Credentials {
        self.with(|cached| cached.run.credentials.clone())
    }

    fn with<T>(&self, look: impl FnOnce(&mut CachedRun) -> T) -> T {
        look(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn send(&self, event: Event) {
        // Without a supervisor there is no worker, either.
        let _ = self.events.send(event).await;
    }
}

/// Reports to the supervisor that replaced credentials expire.
async fn tell_of_end(last_use: Timestamp, renewals: u32, clock: Arc<dyn Clock>, events: mpsc::Sender<Event>) {
    wait_until(last_use, &*clock).await;
    // Without a supervisor there is no worker, either.
    let _ = events.send(Event::OldCredentialsEnd { renewals }).await;
}

/// The time for which new credentials are used although their renewal is due at once.
fn at_most_every(credentials: &Credentials) -> SignedDuration {
    let life = credentials.expires.zip(credentials.obtained).map(|(end, begin)| end.duration_since(begin));
    life.filter(SignedDuration::is_positive).map_or(AT_MOST_EVERY, |life| AT_MOST_EVERY.min(life / 4))
}

/// Shortens a wait by up to a tenth.
fn earlier(wait: SignedDuration) -> SignedDuration {
    let seconds = Duration::try_from(wait).unwrap_or_default().as_secs_f64();
    SignedDuration::try_from_secs_f64(seconds * (1.0 - JITTER * fastrand::f64())).unwrap_or(wait)
}
