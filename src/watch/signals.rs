//! The runner's own signals. All that can be caught are caught: some stop, SIGUSR1 drains, SIGHUP checks for a new
//! deployment, and the others only log a line. docs/operations.md contains the table.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use libc::{
    SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPIPE, SIGPROF, SIGPWR, SIGQUIT, SIGSTKFLT, SIGTERM,
    SIGTSTP, SIGURG, SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH, SIGXCPU, SIGXFSZ,
};
use nix::sys::signal::{SigSet, Signal};
use signal_hook::iterator::exfiltrator::origin::{Origin, WithOrigin};
use signal_hook::low_level::siginfo::Cause;
use signal_hook_tokio::SignalsInfo;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::event::{StopRequest, Strength};
use crate::host::faults;
use crate::host::service_manager::ServiceManager;
use crate::stop::StopSignal;

/// The caught signals, in addition to the real-time signals and those of [`faults`].
const CAUGHT: [libc::c_int; 21] = [
    SIGHUP,
    SIGINT,
    SIGQUIT,
    SIGUSR1,
    SIGUSR2,
    SIGPIPE,
    SIGALRM,
    SIGTERM,
    SIGSTKFLT,
    SIGCHLD,
    SIGCONT,
    SIGTSTP,
    SIGURG,
    SIGXCPU,
    SIGXFSZ,
    SIGVTALRM,
    SIGPROF,
    SIGWINCH,
    SIGIO,
    SIGPWR,
    FIRST_REAL_TIME,
];

/// SIGRTMIN of the GNU C library, and SIGRTMAX.
const FIRST_REAL_TIME: libc::c_int = 34;
const LAST_REAL_TIME: libc::c_int = 64;

/// The interval at which the same signal without effect is logged; others are counted.
const LOGGED_EVERY: Duration = Duration::from_secs(60);

/// Proof that all signals are blocked in this thread until they are caught, so that one that arrives earlier is kept.
#[derive(Debug)]
pub struct Blocked(());

impl Blocked {
    /// Blocks the signals. The inherited signal mask is discarded.
    pub fn now() -> Self {
        // The only possible error is an invalid argument.
        let _ = SigSet::all().thread_set_mask();
        Self(())
    }
}

/// The caught signals, queued from the creation of this value until [`Signals::forward`] runs.
pub struct Signals(
    // Never dropped: a handler that runs on another thread meanwhile would write to a closed socket, receive SIGPIPE
    // for that, and handle it in the same way, without end.
    ManuallyDrop<SignalsInfo<WithOrigin>>,
);

/// A received signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Received {
    signal: libc::c_int,
    from: libc::pid_t,
}

impl Signals {
    /// Catches the signals, including those that arrived while they were blocked. Must be called within the runtime.
    pub fn catch(Blocked(()): Blocked) -> io::Result<Self> {
        let caught = SignalsInfo::new(CAUGHT.into_iter().chain(FIRST_REAL_TIME + 1..=LAST_REAL_TIME))?;
        faults::catch()?;
        SigSet::empty().thread_set_mask()?;
        Ok(Self(ManuallyDrop::new(caught)))
    }

    /// Converts signals to stop requests while it is polled. `checks`: notified by SIGHUP to check for a new
    /// deployment; `None`: this provider has none. `manager` is notified of a reload.
    pub async fn forward(
        mut self,
        stop: StopSignal,
        checks: Option<watch::Sender<()>>,
        manager: ServiceManager,
    ) {
        let mut without_effect = WithoutEffect::default();
        loop {
            let received = self.next().await;
            let (signal, from_pid) = (name(received.signal), received.from);
            match received.signal {
                signal if stops(signal) => {
                    let signal = name(signal);
                    if stop.signalled(Instant::now()) == Strength::Kill {
                        warn!(name: "signal-kill",
                            signal,
                            from_pid, "received a second signal to stop: nothing is waited for any longer"
                        );
                    } else {
                        info!(name: "signal-stop", signal, from_pid, "received a signal to stop");
                    }
                }
                SIGUSR1 => {
                    info!(name: "signal-drain", signal, from_pid, "received a signal to drain");
                    stop.request(StopRequest::operator(Strength::Drain));
                }
                SIGHUP => {
                    reload(&signal, from_pid, checks.as_ref());
                    manager.reloaded();
                }
                number => {
                    if let Some(more) = without_effect.count(number, Instant::now()) {
                        tell_without_effect(received, more);
                    }
                }
            }
        }
    }

    /// Waits for a signal that ends a runner which has not begun anything. Other signals are consumed without effect.
    pub async fn end(&mut self) {
        loop {
            let signal = self.next().await.signal;
            if stops(signal) || signal == SIGUSR1 {
                return;
            }
        }
    }

    async fn next(&mut self) -> Received {
        loop {
            match std::future::poll_fn(|context| Pin::new(&mut *self.0).poll_next(context)).await {
                Some(origin) => {
                    if let Some(received) = of_interest(&origin) {
                        return received;
                    }
                }
                // The stream is never closed.
                None => std::future::pending().await,
            }
        }
    }
}

/// Filters out routine signals: a child that has exited, a pipe without a reader.
fn of_interest(origin: &Origin) -> Option<Received> {
    let own = nix::unistd::getpid().as_raw();
    let (signal, from) = (origin.signal, origin.process.map_or(0, |process| process.pid));
    match signal {
        SIGCHLD if !matches!(origin.cause, Cause::Sent(_)) => None,
        SIGPIPE if from == own => None,
        SIGQUIT if from == own => {
            let (signal, from) = faults::take_handed_on().unwrap_or((SIGQUIT, from));
            Some(Received { signal, from })
        }
        _ => Some(Received { signal, from }),
    }
}

/// Returns true if this signal is a stop request. LXC sends SIGPWR to the first process of a container. After SIGXCPU
/// (`ulimit -t`), SIGKILL follows.
fn stops(signal: libc::c_int) -> bool {
    matches!(signal, SIGTERM | SIGINT | SIGQUIT | SIGPWR | SIGXCPU)
        || Signal::try_from(signal).is_ok_and(|signal| faults::FAULTS.contains(&signal))
}

fn name(signal: libc::c_int) -> String {
    match signal_hook::low_level::signal_name(signal) {
        Some(name) => name.to_owned(),
        None if signal == SIGSTKFLT => "SIGSTKFLT".to_owned(),
        None if signal == SIGPWR => "SIGPWR".to_owned(),
        None if signal >= FIRST_REAL_TIME => format!("SIGRTMIN+{}", signal - FIRST_REAL_TIME),
        None => format!("signal {signal}"),
    }
}

/// Signals without effect, each of which is logged at most once per interval.
#[derive(Default)]
struct WithoutEffect(HashMap<libc::c_int, (Instant, u64)>);

impl WithoutEffect {
    /// Counts a signal. `Some`: it should be logged, with the number of signals since the last line.
    fn count(&mut self, signal: libc::c_int, now: Instant) -> Option<u64> {
        match self.0.entry(signal) {
            Entry::Vacant(entry) => {
                entry.insert((now, 0));
                Some(0)
            }
            Entry::Occupied(mut entry) => {
                let (logged, more) = *entry.get();
                let due = now.saturating_duration_since(logged) >= LOGGED_EVERY;
                entry.insert(if due { (now, 0) } else { (logged, more + 1) });
                due.then_some(more)
            }
        }
    }
}

fn tell_without_effect(Received { signal, from }: Received, more: u64) {
    let (number, signal, from_pid) = (signal, name(signal), from);
    match number {
        SIGXFSZ => warn!(
            signal,
            from_pid,
            more,
            "received a signal that a file has reached its largest size (ulimit -f): what is written to it is lost"
        ),
        SIGCONT => info!(
            signal,
            from_pid, more, "received a signal to continue: start-worker may have been suspended"
        ),
        SIGTSTP => info!(
            signal,
            from_pid,
            more,
            "received a signal to suspend: not done, because nobody would renew the worker's credentials"
        ),
        _ => info!(signal, from_pid, more, "received a signal that has no effect"),
    }
}

fn reload(signal: &str, from_pid: libc::pid_t, checks: Option<&watch::Sender<()>>) {
    match checks.map(|checks| checks.send(())) {
        Some(Ok(())) => {
            info!(name: "signal-reload", signal, from_pid, "received a signal to reload: checking for a new deployment");
        }
        Some(Err(_)) => {
            info!(name: "signal-reload", signal, from_pid, "received a signal to reload: no registered worker has been started yet");
        }
        None => {
            info!(name: "signal-reload",
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
    fn a_signal_without_effect_is_logged_once_a_minute_and_counted_in_between() {
        let (mut signals, begin) = (WithoutEffect::default(), Instant::now());
        let mut count = |signal, seconds| signals.count(signal, begin + Duration::from_secs(seconds));
        assert_eq!([count(SIGUSR2, 0), count(SIGUSR2, 1), count(SIGUSR2, 59)], [Some(0), None, None]);
        assert_eq!(count(SIGWINCH, 1), Some(0));
        assert_eq!([count(SIGUSR2, 60), count(SIGUSR2, 119), count(SIGUSR2, 120)], [Some(2), None, Some(1)]);
    }
}
