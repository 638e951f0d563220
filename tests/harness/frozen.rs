//! Tests with long waits and real sockets: tokio's time stands still, except when the test lets it pass.

#![expect(clippy::disallowed_methods, reason = "a frozen clock needs a blocking call to hold it")]

use std::pin::pin;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

/// Time limit by the real clock for anything that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// While this lives, paused time does not advance by itself when the runtime is idle: an answer on its way takes no
/// time.
pub(crate) struct Frozen {
    _release: mpsc::Sender<()>,
}

/// Freezes the time of a test with `start_paused`.
pub(crate) fn freeze() -> Frozen {
    let (sender, receiver) = mpsc::channel::<()>();
    // Tokio does not advance paused time while a blocking call runs.
    spawn_blocking(move || receiver.recv());
    Frozen { _release: sender }
}

/// Waits a millisecond by the real clock, for the sockets.
async fn breath() {
    spawn_blocking(|| std::thread::park_timeout(Duration::from_millis(1))).await.expect("a breath");
}

/// Waits for the condition without letting time pass.
pub(crate) async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let started = Instant::now();
    while !met() {
        assert!(started.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        breath().await;
    }
}

/// Waits, without letting time pass, until it has been quiet for as many milliseconds as `quiet` returns; `None`:
/// something is busy.
pub(crate) async fn until_quiet(quiet: impl Fn() -> Option<u32>) {
    let mut so_far = 0;
    until("quiet", || {
        so_far = if quiet().is_some() { so_far + 1 } else { 0 };
        quiet().is_some_and(|wanted| so_far > wanted)
    })
    .await;
}

/// Awaits the future, and lets time pass whenever it is quiet.
pub(crate) async fn passing<T>(future: impl Future<Output = T>, quiet: impl Fn() -> Option<u32>) -> T {
    let mut future = pin!(future);
    let started = Instant::now();
    loop {
        tokio::select! {
            done = &mut future => return done,
            () = until_quiet(&quiet) => {}
        }
        assert!(started.elapsed() < DEADLINE, "not done within {DEADLINE:?}");
        tokio::time::advance(Duration::from_millis(500)).await;
    }
}
