//! A clock for tests of what waits by the wall clock.

use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};

use crate::clock::Clock;

/// Follows tokio's paused time, plus what the test adds.
pub(crate) struct TestClock {
    base: Timestamp,
    started: tokio::time::Instant,
    jumped: Mutex<SignedDuration>,
}

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        let base = Timestamp::UNIX_EPOCH;
        Arc::new(Self { base, started: tokio::time::Instant::now(), jumped: Mutex::default() })
    }

    pub(crate) fn jump(&self, by: SignedDuration) {
        *self.jumped.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.started.elapsed()).unwrap();
        self.base + elapsed + *self.jumped.lock().unwrap()
    }
}
