//! The requests and their answers.

use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Notify;

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The time at which its head had been read.
    pub at: Instant,
    pub method: String,
    /// With the query, as it was sent.
    pub path: String,
    /// The call's name as in the API's documentation; `unknown` where there is none.
    pub call: &'static str,
    /// True if it had an `Authorization` header.
    pub signed: bool,
    pub user_agent: Option<String>,
    /// The JSON that it carried.
    pub body: Option<Value>,
    /// The status that was answered; none as yet, or because the connection was reset.
    pub status: Option<u16>,
    /// True if the call was performed and its answer sent completely, without a fault.
    pub performed: bool,
    /// The answer's `code` and the first line of its message, for refusals.
    pub refusal: Option<String>,
}

type Observer = Box<dyn Fn(&Request) + Send + Sync>;

/// All requests, in the order of their arrival.
#[derive(Default)]
pub(super) struct Record {
    requests: Mutex<Vec<Request>>,
    more: Condvar,
    more_async: Notify,
    observer: OnceLock<Observer>,
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the observer for every answered request. Only the first observer is kept.
    pub(super) fn observe(&self, observer: impl Fn(&Request) + Send + Sync + 'static) {
        self.observer.set(Box::new(observer)).ok();
    }

    /// Adds a request; its number is for [`Record::update`].
    pub(super) fn arrived(&self, request: Request) -> usize {
        let mut requests = self.lock();
        requests.push(request);
        self.more.notify_all();
        self.more_async.notify_waiters();
        requests.len() - 1
    }

    pub(super) fn update(&self, number: usize, change: impl FnOnce(&mut Request)) {
        if let Some(request) = self.lock().get_mut(number) {
            change(request);
        }
        self.more.notify_all();
        self.more_async.notify_waiters();
    }

    /// Calls the observer for a completed request.
    pub(super) fn done(&self, number: usize) {
        let Some(observer) = self.observer.get() else { return };
        let request = self.lock().get(number).cloned();
        if let Some(request) = request {
            observer(&request);
        }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.lock().clone()
    }

    pub(super) fn count(&self, call: &str) -> usize {
        self.lock().iter().filter(|request| request.call == call || call == "any").count()
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// Waits until this holds for the requests. Returns false if it did not within the limit.
    pub(super) fn wait(&self, limit: Duration, mut holds: impl FnMut(&[Request]) -> bool) -> bool {
        let requests = self.lock();
        let waited = self.more.wait_timeout_while(requests, limit, |requests| !holds(requests));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// The same for a test whose runtime has other things to do.
    pub(super) async fn wait_async(&self, limit: Duration, holds: impl Fn(&[Request]) -> bool) -> bool {
        let met = async {
            loop {
                let more = self.more_async.notified();
                tokio::pin!(more);
                more.as_mut().enable();
                if holds(&self.lock()) {
                    return;
                }
                more.await;
            }
        };
        tokio::time::timeout(limit, met).await.is_ok()
    }
}
