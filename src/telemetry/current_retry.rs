//! What the runner is trying again at the moment, and why: told by whoever tries, shown by observers.

use std::sync::Arc;

use tokio::sync::watch;

/// The end of a trouble.
#[derive(Debug)]
pub struct Over<'a>(&'a CurrentRetry);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over();
    }
}

/// What does not work at the moment. Clones tell of the same.
#[derive(Debug, Clone)]
pub struct CurrentRetry(watch::Sender<Option<Arc<str>>>);

impl Default for CurrentRetry {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl CurrentRetry {
    /// This does not work, and is tried again.
    pub fn tell(&self, what: &str) {
        self.0.send_if_modified(|told| {
            let news = told.as_deref() != Some(what);
            if news {
                *told = Some(what.into());
            }
            news
        });
    }

    /// It works again, or is not tried any more.
    pub fn is_over(&self) {
        self.0.send_if_modified(|told| told.take().is_some());
    }

    /// Whatever is told until this is dropped is over then.
    #[must_use = "it is over when this is dropped"]
    pub fn until_dropped(&self) -> Over<'_> {
        Over(self)
    }

    /// For an observer.
    pub fn observe(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.subscribe()
    }
}
