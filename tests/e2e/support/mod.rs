//! The harness: a [`Scene`] is a runner configuration with a worker's script; started, it is a [`Runner`] that can be
//! signalled, watched and waited for. Whatever a test starts is killed when its `Runner` is dropped.

mod log;
pub(crate) mod processes;
mod record;
mod runner;
pub(crate) mod scene;
pub(crate) mod shell;

use std::time::{Duration, Instant};

pub(crate) use record::{messages, named, signals};
pub(crate) use runner::{Ended, Runner};
pub(crate) use scene::{Scene, test_worker};

/// How long anything may take that takes milliseconds on an idle machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What timers may differ by: they never fire early, but clocks are read at different moments.
pub(crate) const TOLERANCE: Duration = Duration::from_millis(20);

/// Asks until there is an answer; none within [`DEADLINE`]: none.
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Waits for a moment: for what the clock alone decides, such as two signals that must be a second apart.
pub(crate) fn wait_until(moment: Instant) {
    eventually(|| (Instant::now() >= moment).then_some(())).expect("a moment within the deadline");
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
