//! Asks a runner for its status, beside everything else: nothing here waits.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Interval of the questions.
const EVERY: Duration = Duration::from_millis(500);

/// One question at a time.
#[derive(Default)]
pub(crate) struct Questions {
    open: Option<(UnixStream, Instant)>,
    last: Option<Instant>,
    pub(crate) answers: usize,
}

impl Questions {
    /// Another runner is asked from now on.
    pub(crate) fn start_again(&mut self) {
        self.open = None;
    }

    /// Goes on; for how long the runner has owed an answer. One that has no socket, or closes it, owes none.
    pub(crate) fn look(&mut self, socket: &Path) -> Duration {
        let Some((stream, asked)) = &mut self.open else {
            if self.last.is_none_or(|last| last.elapsed() >= EVERY) {
                self.last = Some(Instant::now());
                self.open = ask(socket).map(|stream| (stream, Instant::now()));
            }
            return Duration::ZERO;
        };
        let waited = asked.elapsed();
        match stream.read(&mut [0; 1 << 12]) {
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => return waited,
            Ok(1..) => self.answers += 1,
            Ok(0) | Err(_) => {}
        }
        self.open = None;
        Duration::ZERO
    }
}

fn ask(socket: &Path) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_nonblocking(true).ok()?;
    stream.write_all(b"{\"request\":\"status\"}\n").ok()?;
    Some(stream)
}
