//! The futures for which the loop waits. Each is pending without end if there is nothing to wait for, and all are
//! cancel-safe.

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::child::{Change, Child};
use super::cleanup::Cleanup;
use super::start::{Spawned, StartError};
use crate::host::blocking::Unanswered;
use crate::host::helper::Helpers;
use crate::output::WorkerEvent;
use crate::worker::LaunchSpec;

/// A step of a worker's start in progress.
pub(super) type Starting<T> = tokio::task::JoinHandle<Result<T, StartError>>;

pub(super) async fn next(events: &mut Option<mpsc::Receiver<WorkerEvent>>) -> Option<Option<WorkerEvent>> {
    match events {
        Some(events) => Some(events.recv().await),
        None => std::future::pending().await,
    }
}

pub(super) async fn changed(child: &mut Option<Child>, alive: bool) -> Change {
    match child {
        Some(child) if alive => child.change().await,
        _ => std::future::pending().await,
    }
}

pub(super) async fn prepared(preparing: &mut Option<Starting<()>>) -> Result<(), StartError> {
    finished(preparing, "the writing of the worker's configuration").await
}

pub(super) async fn executed(spawning: &mut Option<Starting<Spawned>>) -> Result<Spawned, StartError> {
    finished(spawning, "the start of the worker").await
}

async fn finished<T>(step: &mut Option<Starting<T>>, what: &str) -> Result<T, StartError> {
    let Some(task) = step else { return std::future::pending().await };
    let result = task.await;
    *step = None;
    result.unwrap_or_else(|_| Err(Unanswered::Failed { what: what.to_owned() }.into()))
}

/// Waits for a launch with newer credentials.
pub(super) async fn renewed(launches: &mut watch::Receiver<LaunchSpec>) -> LaunchSpec {
    match launches.changed().await {
        Ok(()) => launches.borrow_and_update().clone(),
        // The sender is gone: no more renewals will come.
        Err(_) => std::future::pending().await,
    }
}

pub(super) async fn tick(cleanup: &mut Option<Cleanup>) {
    match cleanup {
        Some(cleanup) => cleanup.tick().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn expired(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Waits until a child has died, or until a start is over and children that died meanwhile can be reaped.
pub(super) async fn child_signal(orphans: &mut Option<Signal>, helpers: &Helpers) -> Option<()> {
    let Some(orphans) = orphans else { return std::future::pending().await };
    tokio::select! {
        died = orphans.recv() => died,
        () = helpers.started_one() => Some(()),
    }
}
