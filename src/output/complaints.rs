//! Warnings about a worker's faulty messages: the first few of a kind are logged, then only the number of further ones.
//!
//! A worker can send a million faulty messages a second. Each one costs a counter update, and never displaces the
//! runner's own log lines.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::quota::Quota;

/// The number of messages of a kind that are logged within [`WINDOW`].
const LOGGED: usize = 10;

/// The interval after which the number of suppressed messages is logged.
const WINDOW: Duration = Duration::from_secs(60);

/// A fault of a worker's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A field is invalid.
    Malformed,
    /// The message exceeds the size limit.
    TooLong,
    /// A `hello` after the first one.
    SecondHello,
    /// The message's capability is not in force.
    NotInForce,
}

impl Fault {
    const ALL: [Self; 4] = [Self::Malformed, Self::TooLong, Self::SecondHello, Self::NotInForce];

    fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLong => "too long",
            Self::SecondHello => "a second hello",
            Self::NotInForce => "its capability is not in force",
        }
    }
}

/// The faults of one worker's messages.
#[derive(Debug)]
pub(super) struct Complaints {
    /// Indexed by the fault's discriminant.
    kinds: [Kind; Fault::ALL.len()],
}

#[derive(Debug)]
struct Kind {
    quota: Quota,
    /// The time at which to log the number of suppressed messages; `None`: none was suppressed.
    due: Option<Instant>,
}

impl Complaints {
    pub(super) fn new() -> Self {
        let kinds = Fault::ALL.map(|_| Kind { quota: Quota::new(LOGGED, WINDOW), due: None });
        Self { kinds }
    }

    /// Counts one message. Returns true if it should be logged.
    pub(super) fn is_logged(&mut self, fault: Fault) -> bool {
        let Some(kind) = self.kinds.get_mut(fault as usize) else { return false };
        let now = Instant::now();
        if kind.due.is_none() && kind.quota.take(now).is_some() {
            return true;
        }
        if kind.due.is_none() {
            kind.due = Some(now + WINDOW);
        } else {
            kind.quota.refuse(1);
        }
        false
    }

    /// The next time at which a number is to be logged.
    pub(super) fn due(&self) -> Option<Instant> {
        self.kinds.iter().filter_map(|kind| kind.due).min()
    }

    /// Logs the numbers that are due by `now`; `None`: all of them.
    pub(super) fn tell(&mut self, now: Option<Instant>) {
        for (kind, fault) in self.kinds.iter_mut().zip(Fault::ALL) {
            if kind.due.is_none_or(|due| now.is_some_and(|now| now < due)) {
                continue;
            }
            kind.due = None;
            let messages = kind.quota.take_refused();
            warn!(
                fault = fault.name(),
                messages,
                "more of the worker's messages were at fault in the last minute and were not logged one by one"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_of_a_kind_are_logged_and_the_rest_is_counted() {
        let mut complaints = Complaints::new();
        assert_eq!(complaints.due(), None);
        let logged = (0..10_000).filter(|_| complaints.is_logged(Fault::Malformed)).count();
        assert_eq!(logged, LOGGED);
        assert!(complaints.is_logged(Fault::TooLong), "each kind counts for itself");
        let (due, before) = (complaints.due().unwrap(), Instant::now());
        complaints.tell(Some(before));
        let malformed =
            |complaints: &mut Complaints| complaints.kinds[Fault::Malformed as usize].quota.take_refused();
        assert_eq!((complaints.due(), malformed(&mut complaints)), (Some(due), 9_990));
        complaints.tell(Some(due));
        assert_eq!(complaints.due(), None);
    }
}
