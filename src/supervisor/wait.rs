//! What the loop waits for: each waits for ever where there is nothing to wait for, and may be dropped at any time.

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::error;

use super::child::Child;
use super::clearing::Clearing;
use crate::chain::Chain;
use crate::event::{Event, ExitStatus};
use crate::host::atomic::WriteError;
use crate::output::WorkerEvent;
use crate::worker::LaunchSpec;

/// The worker's files, being written.
pub(super) type Preparing = tokio::task::JoinHandle<Result<(), WriteError>>;

pub(super) async fn next(events: &mut Option<mpsc::Receiver<WorkerEvent>>) -> Option<Option<WorkerEvent>> {
    match events {
        Some(events) => Some(events.recv().await),
        None => std::future::pending().await,
    }
}

pub(super) async fn exited(child: &mut Option<Child>, alive: bool) -> ExitStatus {
    match child {
        Some(child) if alive => child.wait().await,
        _ => std::future::pending().await,
    }
}

pub(super) async fn prepared(preparing: &mut Option<Preparing>) -> Event {
    let Some(task) = preparing else { return std::future::pending().await };
    let result = task.await;
    *preparing = None;
    match result {
        Ok(Ok(())) => Event::Prepared,
        Ok(Err(cause)) => {
            error!(error = %Chain(&cause), "the worker's configuration cannot be written; see worker.configPath");
            Event::StartFailed
        }
        Err(cause) => {
            error!(error = %cause, "writing the worker's configuration failed unexpectedly");
            Event::StartFailed
        }
    }
}

/// The launch with the newest credentials, once there is a newer one.
pub(super) async fn renewed(launches: &mut watch::Receiver<LaunchSpec>) -> LaunchSpec {
    match launches.changed().await {
        Ok(()) => launches.borrow_and_update().clone(),
        // Nobody renews them any more.
        Err(_) => std::future::pending().await,
    }
}

pub(super) async fn tick(clearing: &mut Option<Clearing>) {
    match clearing {
        Some(clearing) => clearing.tick().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn expired(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

pub(super) async fn child_signal(orphans: &mut Option<Signal>) -> Option<()> {
    match orphans {
        Some(orphans) => orphans.recv().await,
        None => std::future::pending().await,
    }
}
