//! The last warnings and errors of the runner's own log, for observers.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

/// The target of log events that repeat the worker's output: they are not warnings of the runner's.
pub const QUOTED: &str = "start_worker::quoted";

/// The number of warnings to keep.
const KEPT: usize = 5;

/// A warning or error of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub at: Timestamp,
    /// True for an error, false for a warning.
    pub is_error: bool,
    /// The beginning of its message and fields, with known secrets masked.
    pub text: String,
}

/// The recorded warnings and errors.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The last ones, oldest first.
    pub last: VecDeque<Warning>,
    /// The total number of warnings.
    pub warnings: u64,
    /// The total number of errors.
    pub errors: u64,
}

/// Records the log's warnings and errors. Clones share the record. Never blocks for long.
#[derive(Debug, Clone, Default)]
pub struct RecentWarnings(Arc<watch::Sender<Known>>);

impl RecentWarnings {
    pub fn note(&self, trouble: Warning) {
        self.0.send_modify(|known| {
            known.warnings += u64::from(!trouble.is_error);
            known.errors += u64::from(trouble.is_error);
            if known.last.len() == KEPT {
                known.last.pop_front();
            }
            known.last.push_back(trouble);
        });
    }

    /// Subscribes an observer.
    pub fn observe(&self) -> watch::Receiver<Known> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_few_are_kept_and_all_are_counted() {
        let recent_warnings = RecentWarnings::default();
        let text = |number: usize| number.to_string();
        for number in 0..9 {
            let at = Timestamp::UNIX_EPOCH;
            recent_warnings.note(Warning { at, is_error: number % 3 == 0, text: text(number) });
        }
        let known = recent_warnings.observe().borrow().clone();
        assert_eq!((known.warnings, known.errors), (6, 3));
        let kept: Vec<_> = known.last.iter().map(|trouble| trouble.text.as_str()).collect();
        assert_eq!(kept, ["4", "5", "6", "7", "8"]);
    }
}
