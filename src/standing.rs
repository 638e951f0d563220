//! Where the runner stands: announced by whoever knows, seen by observers.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::event::{Phase, StateSummary};
use crate::host::service_manager::ServiceManager;
use crate::run::{Run, WorkerIdentity};

/// What there is to be seen.
#[derive(Debug, Clone)]
pub struct Standing {
    /// What the runner is doing.
    pub summary: StateSummary,
    /// Since when: the last time that the phase, or the worker's process, became another.
    pub since: Timestamp,
    /// Who the worker is, once that is known.
    pub worker: Option<Arc<KnownWorker>>,
    /// When the worker's credentials end; `None`: never, or not known yet.
    pub credentials_expire: Option<Timestamp>,
    /// When they are renewed; `None`: never, or not known yet, or that could not be done.
    pub credentials_renew: Option<Timestamp>,
}

/// Who the worker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownWorker {
    /// The deployment's root URL.
    pub root_url: String,
    /// Its name within the deployment.
    pub identity: WorkerIdentity,
}

/// Tells observers where the runner stands. Never waits for them. Clones tell the same.
#[derive(Clone)]
pub struct Announcer {
    clock: Arc<dyn Clock>,
    standing: watch::Sender<Standing>,
    manager: ServiceManager,
}

impl fmt::Debug for Announcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcer").field("standing", &*self.standing.borrow()).finish_non_exhaustive()
    }
}

impl Announcer {
    /// Begins with [`Phase::Preparing`].
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let standing = Standing {
            summary: Phase::Preparing.into(),
            since: clock.now(),
            worker: None,
            credentials_expire: None,
            credentials_renew: None,
        };
        let manager = ServiceManager::default();
        Self { clock, standing: watch::Sender::new(standing), manager }
    }

    /// Tells the service manager, too, when it must have patience.
    #[must_use]
    pub fn with_manager(self, manager: ServiceManager) -> Self {
        manager.extend(takes_its_time(self.standing.borrow().summary.phase, manager.is_ready()));
        Self { manager, ..self }
    }

    /// The service manager, which is to see that the runner goes on.
    pub fn manager(&self) -> &ServiceManager {
        &self.manager
    }

    /// For an observer.
    pub fn observe(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// What the runner is doing now. The same as before is no news.
    pub fn announce(&self, summary: StateSummary) {
        self.standing.send_if_modified(|standing| {
            let before = standing.summary;
            if (before.phase, before.worker_pid) != (summary.phase, summary.worker_pid) {
                standing.since = self.clock.now();
            }
            standing.summary = summary;
            let news = before != summary;
            if news && before.phase != summary.phase {
                self.manager.extend(takes_its_time(summary.phase, self.manager.is_ready()));
            }
            news
        });
    }

    /// Whose worker is started next.
    pub fn announce_worker(&self, run: &Run) {
        let known = KnownWorker { root_url: run.root_url.clone(), identity: run.identity.clone() };
        self.standing.send_modify(|standing| standing.worker = Some(Arc::new(known)));
        self.announce_renewal(None);
        self.announce_credentials(run.credentials.expires);
    }

    /// When the worker's credentials are renewed.
    pub fn announce_renewal(&self, renew: Option<Timestamp>) {
        self.standing
            .send_if_modified(|standing| std::mem::replace(&mut standing.credentials_renew, renew) != renew);
    }

    /// When the worker's credentials end.
    pub fn announce_credentials(&self, expire: Option<Timestamp>) {
        self.standing.send_if_modified(|standing| {
            std::mem::replace(&mut standing.credentials_expire, expire) != expire
        });
    }
}

/// Whether the service manager must not lose its patience: a start goes on for as long as it takes, also while the host
/// holds; a drain and a stop for as long as they may. `ready`: the start is over for it.
fn takes_its_time(phase: Phase, ready: bool) -> bool {
    match phase {
        // Told apart from what is asked of a host that goes down: here the manager waits for nothing.
        Phase::Running => false,
        Phase::Preparing | Phase::Holding | Phase::Starting | Phase::BackingOff | Phase::AwaitingReboot => {
            !ready
        }
        Phase::Draining | Phase::Stopping | Phase::Killing | Phase::Clearing | Phase::Ended => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::event::{Cause, Reason};

    struct Set(Mutex<Timestamp>);

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }

    #[test]
    fn the_time_of_a_phase_is_that_of_its_beginning() {
        let time = |second| Timestamp::from_second(second).unwrap();
        let clock = Arc::new(Set(Mutex::new(time(1))));
        let announcer = Announcer::new(clock.clone());
        let mut seen = announcer.observe();
        let draining =
            |reason| StateSummary { phase: Phase::Draining, worker_pid: Some(7), reason: Some(reason) };
        for (second, summary, news, since) in [
            (2, Phase::Preparing.into(), false, 1),
            (3, draining(Reason::Asked(Cause::NewCredentials)), true, 3),
            (4, draining(Reason::Asked(Cause::Operator)), true, 3),
            (5, draining(Reason::Asked(Cause::Operator)), false, 3),
            (6, StateSummary { worker_pid: Some(8), ..draining(Reason::Asked(Cause::Operator)) }, true, 6),
        ] {
            *clock.0.lock().unwrap() = time(second);
            announcer.announce(summary);
            assert_eq!(seen.has_changed().unwrap(), news, "{second}");
            let standing = seen.borrow_and_update();
            assert_eq!((standing.summary, standing.since), (summary, time(since)), "{second}");
        }
    }
}
