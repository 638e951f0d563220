//! A clock for tests of waits by the wall clock.

use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};

use crate::clock::Clock;

/// A clock that follows tokio's paused time plus the test's offsets.
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

    /// Sets the host's clock, which is right until then.
    pub(crate) fn jump(&self, by: SignedDuration) {
        *self.jumped.lock().unwrap() += by;
    }

    /// Lets the host sleep: the time passes, but its timers do not advance.
    pub(crate) fn sleep(&self, time: SignedDuration) {
        *self.slept.lock().unwrap() += time;
    }

    /// The true time, independent of the host's clock.
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
