//! A clock for tests of what waits by the wall clock.

use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};

use crate::clock::Clock;

/// Follows tokio's paused time, plus what the test adds.
pub(crate) struct TestClock {
    base: Timestamp,
    started: tokio::time::Instant,
    slept: Mutex<SignedDuration>,
    jumped: Mutex<SignedDuration>,
}

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        let (base, started) = (Timestamp::UNIX_EPOCH, tokio::time::Instant::now());
        Arc::new(Self { base, started, slept: Mutex::default(), jumped: Mutex::default() })
    }

    /// Somebody sets the host's clock. It is right until then.
    pub(crate) fn jump(&self, by: SignedDuration) {
        *self.jumped.lock().unwrap() += by;
    }

    /// The host sleeps: time goes on, but its timers do not.
    pub(crate) fn sleep(&self, time: SignedDuration) {
        *self.slept.lock().unwrap() += time;
    }

    /// The time, whatever the host's clock says.
    pub(crate) fn true_time(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.started.elapsed()).unwrap();
        self.base + elapsed + *self.slept.lock().unwrap()
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.true_time() + *self.jumped.lock().unwrap()
    }
}
