//! A worker that a signal has stopped (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU).
//!
//! ```text
//! runs ──stopped──▶ continued by the runner ──stopped again within a minute──▶ left as it is
//!   ▲                         │                                                    │
//!   └──── after a minute ─────┘          continued by somebody else ───────────────┘
//! ```
//!
//! A stop may be an accident (Ctrl-Z on the terminal, a program that uses the terminal from the background, a tool that
//! stops processes by their name) or intended; a second stop within a minute counts as intended. The worker is also
//! continued when it is asked to end, so that it can react.

use std::time::Duration;

use super::{Action, Ladder, Machine, Moment, Note, State, Worker};

/// A worker that is stopped again within this time of being continued is not continued again.
const AGAIN: Duration = Duration::from_secs(60);

/// The signals that have stopped a worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stops {
    /// The number of the signal that has stopped it; `None`: it runs.
    pub signal: Option<i32>,
    /// The time at which the runner last continued it.
    continued: Option<Moment>,
    /// True once the runner has stopped continuing it and has logged that.
    left: bool,
}

impl Machine {
    /// Handles a stop by a signal. `lent`: the worker had no terminal, and has been lent one.
    pub(super) fn worker_stopped(&mut self, now: Moment, signal: i32, lent: bool, actions: &mut Vec<Action>) {
        let Some(Worker { pid, stops, .. }) = self.stoppable() else { return };
        stops.signal = Some(signal);
        if lent {
            actions.push(Action::Continue);
        } else if stops.continued.is_none_or(|at| now >= at + AGAIN) {
            *stops = Stops { signal: Some(signal), continued: Some(now), left: false };
            actions.extend([Action::Note(Note::WorkerStopped { pid: *pid, signal }), Action::Continue]);
        } else {
            if !std::mem::replace(&mut stops.left, true) {
                actions.push(Action::Note(Note::WorkerLeftStopped { pid: *pid, signal }));
            }
            // Otherwise Ctrl-C would have no effect: the signal remains pending until the worker is continued.
            actions.push(Action::TakeTerminal);
        }
    }

    /// Handles a continuation of the worker, which any process may have caused.
    pub(super) fn worker_continued(&mut self, actions: &mut Vec<Action>) {
        let Some(Worker { stops, .. }) = self.stoppable() else { return };
        if stops.signal.take().is_some() && stops.left {
            actions.push(Action::LendTerminal);
        }
    }

    /// The worker, unless it is being killed, because the runner itself stops the processes that it kills.
    fn stoppable(&mut self) -> Option<&mut Worker> {
        match &mut self.state {
            State::Stopping(_, _, Ladder::Killed { .. }) => None,
            State::Running(worker) | State::Stopping(worker, ..) => Some(worker),
            _ => None,
        }
    }
}

impl Worker {
    /// Continues a worker that is asked to end.
    pub(super) fn continue_to_end(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if self.stops.signal.is_some() {
            self.stops.continued = Some(now);
            actions.push(Action::Continue);
        }
    }
}
