//! The runner's own signals, as events: SIGTERM and SIGINT stop, SIGUSR1 drains, SIGHUP looks for a new deployment.

use std::io;
use std::pin::Pin;

use futures_core::Stream;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::exfiltrator::origin::{Origin, WithOrigin};
use signal_hook_tokio::SignalsInfo;
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::event::{Cause, Event, Strength};
use crate::host::service_manager::ServiceManager;

/// The signals that are caught from the moment this is made. Until [`Signals::forward`] runs they are kept.
pub struct Signals(SignalsInfo<WithOrigin>);

impl Signals {
    /// Catches the signals.
    pub fn catch() -> io::Result<Self> {
        Ok(Self(SignalsInfo::new([SIGTERM, SIGINT, SIGUSR1, SIGHUP])?))
    }

    /// Sends an event for each signal, until nobody receives them. `checks`: whom SIGHUP makes look for a new deployment;
    /// `None`: this provider has none.
    /// `manager` is told of a reload.
    pub async fn forward(
        mut self,
        events: mpsc::Sender<Event>,
        checks: Option<watch::Sender<()>>,
        manager: ServiceManager,
    ) {
        while let Some(origin) = self.next().await {
            let Some(event) = received(&origin, checks.as_ref()) else {
                manager.reloaded();
                continue;
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
    }

    async fn next(&mut self) -> Option<Origin> {
        std::future::poll_fn(|context| Pin::new(&mut self.0).poll_next(context)).await
    }
}

fn received(origin: &Origin, checks: Option<&watch::Sender<()>>) -> Option<Event> {
    let signal = signal_hook::low_level::signal_name(origin.signal).unwrap_or("unknown");
    let from = origin.process.map_or(0, |process| process.pid);
    match origin.signal {
        SIGTERM | SIGINT => {
            info!(signal, from_pid = from, "received a signal to stop");
            Some(Event::Terminate)
        }
        SIGUSR1 => {
            info!(signal, from_pid = from, "received a signal to drain");
            Some(Event::Asked { strength: Strength::Drain, cause: Cause::Operator })
        }
        _ => {
            let from_pid = from;
            match checks.map(|checks| checks.send(())) {
                Some(Ok(())) => {
                    info!(signal, from_pid, "received a signal to reload: checking for a new deployment");
                }
                Some(Err(_)) => info!(
                    signal,
                    from_pid, "received a signal to reload: no registered worker has been started yet"
                ),
                None => info!(
                    signal,
                    from_pid, "received a signal to reload: this provider has no deployments to look for"
                ),
            }
            None
        }
    }
}
