//! Renews the worker's credentials in good time, by the wall clock: cache first, then the worker's files, then the worker.

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

/// After a refusal it is tried again only where the worker may register anew, and not before this.
const AFTER_REFUSAL: SignedDuration = SignedDuration::from_mins(10);

/// How much earlier than needed a renewal comes at most, as a part of the wait: so that workers that started together
/// do not renew together.
const JITTER: f64 = 0.1;

/// New credentials that are due at once, too, are renewed after this, or after a quarter of their life, where that is
/// less: the host's clock may be days ahead, and the deployment is not to be called without end.
const AT_MOST_EVERY: SignedDuration = SignedDuration::from_mins(1);

/// Who gets new credentials for old ones: worker-manager, asked by a [`Registrar`].
pub trait Renews: Send + Sync {
    /// The new ones, and the secret for the next time.
    ///
    /// # Errors
    ///
    /// Refused, or no answer for as long as it was tried.
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

/// What the renewal of one run's credentials needs.
pub struct Renewal<R = Registrar> {
    /// Who renews.
    pub registrar: R,
    /// Whether a refusal may pass: the worker may register anew at any time (static).
    pub may_register_again: bool,
    /// The run whose credentials they are, as it is cached.
    pub current: Current,
    /// The runner configuration's `worker`.
    pub settings: WorkerSettings,
    /// The writer of the cache.
    pub cache_writer: CacheWriter,
    /// Tells the wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// What must not be shown.
    pub secrets: Secrets,
    /// Whom to tell when the next renewal is due.
    pub publisher: StatusPublisher,
    /// Where the supervisor finds the newest launch.
    pub launches: watch::Sender<LaunchSpec>,
    /// The way to the supervisor.
    pub events: mpsc::Sender<Event>,
}

impl<R: Renews> Renewal<R> {
    /// Renews until the supervisor is gone, or until that has failed for so long that the worker had to be stopped.
    pub async fn keep(self) {
        // They end with this task.
        let mut old = JoinSet::new();
        // However short their life is, renewed ones are not renewed at once.
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

    /// Tries until they are of no more use. After a refusal it waits before it tries again; a worker that can register
    /// only once does not.
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

    /// On the disk first: the secret for the next renewal is nowhere else.
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
        // What could be made at the start can be made again.
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
        // Without a supervisor there is no worker either.
        let _ = self.events.send(event).await;
    }
}

/// Tells when credentials that were renewed are of no more use.
async fn tell_of_end(last_use: Timestamp, renewals: u32, clock: Arc<dyn Clock>, events: mpsc::Sender<Event>) {
    wait_until(last_use, &*clock).await;
    // Without a supervisor there is no worker either.
    let _ = events.send(Event::OldCredentialsEnd { renewals }).await;
}

/// How long new credentials that are due at once are used all the same.
fn at_most_every(credentials: &Credentials) -> SignedDuration {
    let life = credentials.expires.zip(credentials.obtained).map(|(end, begin)| end.duration_since(begin));
    life.filter(SignedDuration::is_positive).map_or(AT_MOST_EVERY, |life| AT_MOST_EVERY.min(life / 4))
}

/// Up to a tenth earlier.
fn earlier(wait: SignedDuration) -> SignedDuration {
    let seconds = Duration::try_from(wait).unwrap_or_default().as_secs_f64();
    SignedDuration::try_from_secs_f64(seconds * (1.0 - JITTER * fastrand::f64())).unwrap_or(wait)
}
