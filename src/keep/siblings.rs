//! The sibling tasks of one run, and what becomes of one that fails.

use tokio::sync::mpsc;
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

    pub(crate) fn spawn(&self, sibling: &'static str, task: impl Future<Output = ()> + Send + 'static) {
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
        });
    }
}

impl Drop for Siblings {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
