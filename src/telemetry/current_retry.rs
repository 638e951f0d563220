//! The operation that the runner is currently retrying, and the reason. Set by the operation, shown by observers.

use std::sync::Arc;

use tokio::sync::watch;

/// Clears the retry when it is dropped.
#[derive(Debug)]
pub struct Over<'a>(&'a CurrentRetry);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over();
    }
}

/// The operation that currently fails. Clones share it.
#[derive(Debug, Clone)]
pub struct CurrentRetry(watch::Sender<Option<Arc<str>>>);

impl Default for CurrentRetry {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl CurrentRetry {
    /// Records an operation that fails and will be retried.
    pub fn tell(&self, what: &str) {
        self.0.send_if_modified(|told| {
            let news = told.as_deref() != Some(what);
            if news {
                *told = Some(what.into());
            }
            news
        });
    }

    /// Records that the operation succeeded or is not retried any more.
    pub fn is_over(&self) {
        self.0.send_if_modified(|told| told.take().is_some());
    }

    /// Clears any retry when the result is dropped.
    #[must_use = "it is over when this is dropped"]
    pub fn until_dropped(&self) -> Over<'_> {
        Over(self)
    }

    /// Subscribes an observer.
    pub fn observe(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.subscribe()
    }
}
