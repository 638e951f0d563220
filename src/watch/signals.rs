//! The runner's own signals: SIGTERM and SIGINT stop, SIGUSR1 drains, SIGHUP checks for a new deployment.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::exfiltrator::origin::{Origin, WithOrigin};
use signal_hook_tokio::SignalsInfo;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::event::{StopRequest, Strength};
use crate::host::service_manager::ServiceManager;
use crate::stop::StopSignal;

/// Two signals within this time count as one: wrappers and process groups deliver the same Ctrl-C twice.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// The signals that the runner acts on.
const CAUGHT: [libc::c_int; 4] = [SIGTERM, SIGINT, SIGUSR1, SIGHUP];

/// The signals of [`CAUGHT`] are blocked in this thread until they are caught, so that one that arrives earlier is kept.
/// Every other signal is unblocked, whatever the runner was started with.
#[derive(Debug)]
pub struct Blocked(());

impl Blocked {
    /// Blocks them. Threads that are made before they are caught must not expect to receive them.
    pub fn now() -> Self {
        let signals: SigSet = CAUGHT.iter().filter_map(|number| Signal::try_from(*number).ok()).collect();
        // An invalid argument is the only error there is.
        let _ = signals.thread_set_mask();
        Self(())
    }
}

/// The signals that are caught from the moment this is made. Until [`Signals::forward`] runs they are kept.
pub struct Signals(SignalsInfo<WithOrigin>);

impl Signals {
    /// Catches the signals, those that arrived while they were blocked included. Must be called within the runtime.
    pub fn catch(Blocked(()): Blocked) -> io::Result<Self> {
        let caught = Self(SignalsInfo::new(CAUGHT)?);
        SigSet::empty().thread_set_mask()?;
        Ok(caught)
    }

    /// Turns signals into requests to stop, for as long as it is polled. `checks`: told by SIGHUP to check for a new
    /// deployment; `None`: this provider has none. `manager` is told about a reload.
    pub async fn forward(
        mut self,
        stop: StopSignal,
        checks: Option<watch::Sender<()>>,
        manager: ServiceManager,
    ) {
        let mut first = FirstStop::default();
        while let Some(origin) = self.next().await {
            let signal = signal_hook::low_level::signal_name(origin.signal).unwrap_or("unknown");
            let from_pid = origin.process.map_or(0, |process| process.pid);
            match origin.signal {
                SIGTERM | SIGINT => {
                    let strength = first.strength(Instant::now());
                    if strength == Strength::Kill {
                        warn!(
                            signal,
                            from_pid, "received a second signal to stop: nothing is waited for any longer"
                        );
                    } else {
                        info!(signal, from_pid, "received a signal to stop");
                    }
                    stop.request(StopRequest::operator(strength));
                }
                SIGUSR1 => {
                    info!(signal, from_pid, "received a signal to drain");
                    stop.request(StopRequest::operator(Strength::Drain));
                }
                _ => {
                    reload(signal, from_pid, checks.as_ref());
                    manager.reloaded();
                }
            }
        }
    }

    /// Waits for a signal that ends a runner which has not begun anything. Other signals are taken without effect.
    pub async fn end(&mut self) {
        while let Some(origin) = self.next().await {
            if origin.signal != SIGHUP {
                return;
            }
        }
    }

    async fn next(&mut self) -> Option<Origin> {
        std::future::poll_fn(|context| Pin::new(&mut self.0).poll_next(context)).await
    }
}

/// The time of the first SIGTERM or SIGINT. It tells a second one from the first one delivered twice.
#[derive(Default)]
struct FirstStop(Option<Instant>);

impl FirstStop {
    fn strength(&mut self, now: Instant) -> Strength {
        let first = *self.0.get_or_insert(now);
        if now.saturating_duration_since(first) < SAME_SIGNAL { Strength::Stop } else { Strength::Kill }
    }
}

fn reload(signal: &str, from_pid: libc::pid_t, checks: Option<&watch::Sender<()>>) {
    match checks.map(|checks| checks.send(())) {
        Some(Ok(())) => {
            info!(signal, from_pid, "received a signal to reload: checking for a new deployment");
        }
        Some(Err(_)) => {
            info!(signal, from_pid, "received a signal to reload: no registered worker has been started yet");
        }
        None => {
            info!(
                signal,
                from_pid, "received a signal to reload: this provider has no deployments to look for"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_sigterm_within_a_second_is_the_same_one() {
        let (mut first, begin) = (FirstStop::default(), Instant::now());
        let strengths =
            [0, 999, 1000, 1001].map(|millis| first.strength(begin + Duration::from_millis(millis)));
        assert_eq!(strengths, [Strength::Stop, Strength::Stop, Strength::Kill, Strength::Kill]);
    }
}
