//! The harness: a [`Scene`] is a runner configuration with a worker's script; started, it is a [`Runner`] that can be
//! signalled, watched and waited for. Dropping a `Runner` kills everything that the test has started.

pub(crate) mod captured;
pub(crate) mod frozen;
pub(crate) mod hung_disk;
mod log;
mod runner;
pub(crate) mod scene;
pub(crate) mod shell;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) use runner::{Ended, Runner};
pub(crate) use scene::{Scene, test_worker};
pub(crate) use test_support::record::{messages, named, signals};

/// Time limit for anything that takes milliseconds on an idle machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Tolerance for timers: they never fire early, but clocks are read at different times.
pub(crate) const TOLERANCE: Duration = Duration::from_millis(20);

/// Polls until there is an answer; `None`: there was none within [`DEADLINE`].
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

/// Waits for a point in time, for conditions that depend on the clock alone, such as two signals that must be a second
/// apart.
pub(crate) fn wait_until(moment: Instant) {
    eventually(|| (Instant::now() >= moment).then_some(())).expect("a moment within the deadline");
}

/// Returns true if the tests run as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Creates an executable with this text. Another process writes it: a file that this process writes is also open in a
/// child that another thread forks at the same time, and cannot be executed ("text file busy") until that child has
/// executed its program.
pub(crate) fn write_program(path: &Path, text: impl AsRef<[u8]>) {
    let mut writer = Command::new("sh");
    writer.args(["-c", r#"cat >"$0" && chmod 755 "$0""#]).arg(path).stdin(Stdio::piped());
    let mut writer = writer.spawn().unwrap();
    writer.stdin.take().unwrap().write_all(text.as_ref()).unwrap();
    assert!(writer.wait().unwrap().success());
}

/// Copies an executable, with another process for the same reason.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}
