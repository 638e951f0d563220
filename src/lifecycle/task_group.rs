//! The sibling tasks of one run, and the reaction to a failing one.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::error;

use crate::event::StopRequest;
use crate::stop::StopSignal;

/// The sibling tasks of one run. They end with it, and a failure drains the worker.
pub(crate) struct TaskGroup {
    tasks: TaskTracker,
    end: CancellationToken,
    stop: StopSignal,
}

impl TaskGroup {
    pub(crate) fn new(stop: StopSignal) -> Self {
        Self { tasks: TaskTracker::new(), end: CancellationToken::new(), stop }
    }

    /// Spawns a sibling. Its handle can be awaited; aborting the handle ends the sibling.
    pub(crate) fn spawn(
        &self,
        sibling: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let (end, stop) = (self.end.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            // A separate task, so that a panic is detected. It ends with this one, however this one ends.
            let mut task = AbortOnDropHandle::new(tokio::spawn(task));
            let ended = tokio::select! {
                () = end.cancelled() => return,
                ended = &mut task => ended,
            };
            let Err(cause) = ended else { return };
            error!(name: "runner-task-failed", sibling, error = %cause, "a part of start-worker has failed: the worker is asked to finish");
            stop.request(StopRequest::RUNNER_FAULT);
        })
    }

    /// Ends all siblings.
    pub(crate) fn end(&self) {
        self.end.cancel();
    }
}

impl Drop for TaskGroup {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Alive(#[expect(dead_code, reason = "dropped with the task")] std::sync::mpsc::Sender<()>);

    /// A sibling that never ends, and a channel that is disconnected once it is gone.
    fn endless(tasks: &TaskGroup) -> (JoinHandle<()>, std::sync::mpsc::Receiver<()>) {
        let (alive, gone) = std::sync::mpsc::channel();
        let alive = Alive(alive);
        let task = tasks.spawn("endless", async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        (task, gone)
    }

    async fn ended(gone: &std::sync::mpsc::Receiver<()>) {
        while gone.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_sibling_ends_with_its_handle_and_with_all_others() {
        let tasks = TaskGroup::new(StopSignal::default());
        let ((one, one_gone), (_other, other_gone)) = (endless(&tasks), endless(&tasks));
        tokio::task::yield_now().await;
        one.abort();
        ended(&one_gone).await;
        drop(tasks);
        ended(&other_gone).await;
    }
}
