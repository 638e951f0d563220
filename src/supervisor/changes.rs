//! Converts changes of the worker's process to events for the state machine.

use nix::sys::signal::Signal;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Supervisor;
use super::child::{Change, Child};
use crate::event::{Event, Strength};

impl Supervisor<'_> {
    pub(super) fn worker_changed(&mut self, change: Change) -> Option<Event> {
        match change {
            Change::Exited(status) => {
                self.with_child(Child::catch_up);
                let exit = (self.spec.explain)(status);
                self.last_exit = Some(exit);
                Some(Event::Exited(exit))
            }
            Change::Stopped { signal, lent } => Some(Event::WorkerStopped { signal: signal as i32, lent }),
            Change::Continued => Some(Event::WorkerContinued),
            Change::Typed(signal) => self.typed(signal),
        }
    }

    /// Ctrl-C on the terminal that was lent to the worker stops the runner, too. The request counts before the worker's
    /// exit is evaluated.
    fn typed(&mut self, signal: Signal) -> Option<Event> {
        if self.job.stop.signalled(Instant::now()) == Strength::Kill {
            warn!(name: "signal-kill",
                %signal,
                from = "terminal", "received a second signal to stop: nothing is waited for any longer"
            );
        } else {
            info!(name: "signal-stop", %signal, from = "terminal", "received a signal to stop");
        }
        self.stop_seen = self.job.stop.current();
        self.stop_seen.map(Event::Stop)
    }
}
