//! The worker's requests for an automatic login. They are processed one after the other, outside the supervisor's loop,
//! and each is answered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, WeakSender};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use crate::autologin::Logins;
use crate::error_chain::ErrorChain;
use crate::host::helper::Helpers;
use crate::protocol::message::{AutologinRefused, AutologinRequest, ToWorker};
use crate::quota::Quota;

/// Capacity for requests that wait for the disk; further ones are refused.
const WAITING: usize = 16;

/// Maximum number of requests a minute, because each can write to the disk.
const A_MINUTE: usize = 20;

/// The window of [`A_MINUTE`] and [`LOGGED`].
const A_MOMENT: Duration = Duration::from_secs(60);

/// Maximum number of log lines a minute about refused requests, and about lost answers.
const LOGGED: usize = 2;

/// Time limit for a reboot or a shutdown to wait for earlier requests.
const PATIENCE: Duration = Duration::from_secs(30);

/// The queue for one worker's stdin. Does not keep it open.
pub(super) type Worker = WeakSender<Vec<u8>>;

enum Item {
    Request {
        request: AutologinRequest,
        worker: Worker,
    },
    /// Confirms that all earlier requests are done.
    Reached(oneshot::Sender<()>),
}

/// The queue of requests.
#[derive(Debug)]
pub(super) struct Requests {
    queue: Option<mpsc::Sender<Item>>,
    quota: Quota,
    /// Limits the warnings.
    refusals: Quota,
    losses: Losses,
}

/// Limits the warnings about lost answers.
type Losses = Arc<Mutex<Quota>>;

impl Requests {
    /// The requests are processed on `tasks`, until [`Requests::close`].
    pub(super) fn new(logins: Option<Arc<Logins>>, helpers: Helpers, tasks: &TaskTracker) -> Self {
        let logged = || Quota::new(LOGGED, A_MOMENT);
        let (quota, refusals, losses) =
            (Quota::new(A_MINUTE, A_MOMENT), logged(), Losses::new(Mutex::new(logged())));
        let queue = logins.map(|logins| {
            let (queue, items) = mpsc::channel(WAITING);
            tasks.spawn(work(logins, helpers, items, losses.clone()));
            queue
        });
        Self { queue, quota, refusals, losses }
    }

    /// Queues a worker's request. Never blocks. A refused request is answered, too.
    pub(super) fn heard(&mut self, request: Result<AutologinRequest, AutologinRefused>, worker: &Worker) {
        let request = match request {
            Ok(request) => request,
            // The refusal has been logged already.
            Err(refused) => {
                let user = refused.user().map(str::to_owned);
                return answer(worker, user, Some(refused.to_string()), &self.losses);
            }
        };
        let now = Instant::now();
        let Some(queue) = &self.queue else {
            return self.heard(Err(AutologinRefused::NotOffered(request)), worker);
        };
        let refused = if self.quota.take(now).is_none() {
            Some((request, "too many requests: start-worker does 20 a minute"))
        } else {
            let item = Item::Request { request, worker: worker.clone() };
            match queue.try_send(item).map_err(mpsc::error::TrySendError::into_inner) {
                Err(Item::Request { request, .. }) => {
                    Some((request, "too many requests at once: wait for the answers"))
                }
                _ => None,
            }
        };
        let Some((request, why)) = refused else { return };
        if let Some(further) = self.refusals.take(now) {
            warn!(further, "worker asks for too many automatic logins: a request is refused");
        }
        answer(worker, request.user, Some(why.to_owned()), &self.losses);
    }

    /// Waits until all requests so far are done: a host must not go down before the next user is on its disk.
    pub(super) fn all_done(&self) -> impl Future<Output = ()> + Send + 'static {
        let queue = self.queue.clone();
        async move {
            let Some(queue) = queue else { return };
            let (reached, done) = oneshot::channel();
            let wait = async {
                // If the task has ended, nothing is left to do.
                let _ = queue.send(Item::Reached(reached)).await;
                drop(queue);
                let _ = done.await;
            };
            if tokio::time::timeout(PATIENCE, wait).await.is_err() {
                error!(name: "autologin-failed", "the automatic login is not on the disk within 30s: not waited for any longer");
            }
        }
    }

    /// Accepts no more requests.
    pub(super) fn close(&mut self) {
        self.queue = None;
    }
}

async fn work(logins: Arc<Logins>, helpers: Helpers, mut items: mpsc::Receiver<Item>, losses: Losses) {
    while let Some(item) = items.recv().await {
        match item {
            Item::Reached(reached) => drop(reached.send(())),
            Item::Request { request, worker } => {
                let error = perform(&logins, &helpers, &request).await;
                answer(&worker, request.user, error, &losses);
            }
        }
    }
}

/// Returns the reason for a failure.
async fn perform(logins: &Arc<Logins>, helpers: &Helpers, request: &AutologinRequest) -> Option<String> {
    let user = request.user.as_deref();
    let cause = match logins.perform(request).await {
        Ok(Ok(done)) => {
            logins.conclude(user, &done, helpers).await;
            return None;
        }
        Ok(Err(cause)) => ErrorChain(&cause).to_string(),
        Err(cause) => cause.to_string(),
    };
    error!(name: "autologin-failed", user, error = cause, "the automatic login that the worker asks for cannot be set");
    Some(cause)
}

fn answer(worker: &Worker, user: Option<String>, error: Option<String>, losses: &Mutex<Quota>) {
    let Some(messages) = worker.upgrade() else {
        return debug!("worker has ended before the answer to its autologin");
    };
    if let Err(error) = messages.try_send(ToWorker::AutologinResult { user, error }.encode()) {
        let further = losses.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        if let Some(further) = further {
            warn!(%error, further, "worker does not read its input: the answer to its autologin is lost");
        }
    }
}
