//! The sibling tasks of one run, and what becomes of one that fails.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::event::{Cause, Event, Strength};

/// The sibling tasks of one run: they end with it, and one that fails is an event, not silence.
pub(crate) struct Siblings {
    tasks: TaskTracker,
    stop: CancellationToken,
    events: mpsc::Sender<Event>,
}

impl Siblings {
    pub(crate) fn new(events: mpsc::Sender<Event>) -> Self {
        Self { tasks: TaskTracker::new(), stop: CancellationToken::new(), events }
    }

    /// Whoever wants to know when it has ended may wait for the handle.
    pub(crate) fn spawn(
        &self,
        sibling: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let (stop, events) = (self.stop.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let mut task = tokio::spawn(task);
            let ended = tokio::select! {
                () = stop.cancelled() => return task.abort(),
                ended = &mut task => ended,
            };
            let Err(cause) = ended else { return };
            error!(sibling, error = %cause, "a part of start-worker has failed: the worker is asked to finish");
            // Without a supervisor there is no worker either.
            let _ = events.send(Event::Asked { strength: Strength::Drain, cause: Cause::RunnerFault }).await;
        })
    }

    /// Ends them all.
    pub(crate) fn end(&self) {
        self.stop.cancel();
    }
}

impl Drop for Siblings {
    fn drop(&mut self) {
        self.end();
    }
}
