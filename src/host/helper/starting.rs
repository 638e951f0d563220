//! Children that another thread is starting. Until a start is over, nothing else reaps children or mistakes a new one
//! for a worker's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Helpers, Registry};

/// The starts of children on other threads.
#[derive(Debug, Default)]
pub(super) struct Starts {
    count: Mutex<Count>,
    one_is_over: Notify,
}

#[derive(Debug, Default)]
struct Count {
    now: usize,
    ever: u64,
}

impl Starts {
    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A child of the runner is being started on another thread, which reaps it if the start fails. Until this is dropped,
/// nothing else reaps children or mistakes an unknown one for a worker's.
#[derive(Debug)]
pub struct Starting(Arc<Registry>);

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.starts.count().now -= 1;
        self.0.starts.one_is_over.notify_one();
    }
}

impl Helpers {
    /// Announces a child that another thread is about to start.
    pub fn starting(&self) -> Starting {
        let mut count = self.registry.starts.count();
        (count.now, count.ever) = (count.now + 1, count.ever + 1);
        drop(count);
        Starting(self.registry.clone())
    }

    /// Returns true while a child is being started that is not registered yet.
    pub fn is_starting(&self) -> bool {
        self.registry.starts.count().now > 0
    }

    /// The number of starts so far; `None` while one is in progress.
    pub fn starts(&self) -> Option<u64> {
        let count = self.registry.starts.count();
        (count.now == 0).then_some(count.ever)
    }

    /// Prevents other threads from starting a child until the result is dropped; `None`: a start is in progress.
    pub fn none_starting(&self) -> Option<impl Drop + '_> {
        let count = self.registry.starts.count();
        (count.now == 0).then_some(count)
    }

    /// Waits until a start in progress is over.
    pub async fn started_one(&self) {
        self.registry.starts.one_is_over.notified().await;
    }
}
