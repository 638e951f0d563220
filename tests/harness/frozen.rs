//! Tests of what waits long and talks to real sockets: tokio's time stands still, but for what the test lets pass.

#![expect(clippy::disallowed_methods, reason = "a frozen clock needs a blocking call to hold it")]

use std::pin::pin;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

/// How long anything that must happen may take, by the real clock.
const DEADLINE: Duration = Duration::from_secs(20);

/// While this lives, paused time does not run ahead when nothing else is to do: an answer on its way takes no time.
pub(crate) struct Frozen {
    _release: mpsc::Sender<()>,
}

/// Freezes the time of a test that has `start_paused`.
pub(crate) fn freeze() -> Frozen {
    let (sender, receiver) = mpsc::channel::<()>();
    // Tokio does not advance paused time while something blocks.
    spawn_blocking(move || receiver.recv());
    Frozen { _release: sender }
}

/// A millisecond of the real clock, for the sockets.
async fn breath() {
    spawn_blocking(|| std::thread::park_timeout(Duration::from_millis(1))).await.expect("a breath");
}

/// Waits, without letting time pass, until this is so.
pub(crate) async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let started = Instant::now();
    while !met() {
        assert!(started.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        breath().await;
    }
}

/// Waits, without letting time pass, until it has been quiet for as many milliseconds as `quiet` wants; `None`: somebody
/// is busy.
pub(crate) async fn until_quiet(quiet: impl Fn() -> Option<u32>) {
    let mut so_far = 0;
    until("quiet", || {
        so_far = if quiet().is_some() { so_far + 1 } else { 0 };
        quiet().is_some_and(|wanted| so_far > wanted)
    })
    .await;
}

/// Waits for this, letting time pass whenever it is quiet.
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
