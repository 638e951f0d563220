//! The runner's log on stderr, read as it comes, or not before the test says so.

use std::io::Read;
use std::process::ChildStderr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::DEADLINE;

/// The bytes read so far.
#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    at_end: bool,
}

/// The log of one runner.
pub(crate) struct Log {
    content: Arc<(Mutex<Content>, Condvar)>,
    open_gate: Sender<()>,
}

impl Log {
    /// Begins to read; `blocked`: not before [`Log::unblock`].
    pub(super) fn read(stderr: ChildStderr, blocked: bool) -> Self {
        let content = Arc::<(Mutex<Content>, Condvar)>::default();
        let (open_gate, gate) = channel();
        if !blocked {
            open_gate.send(()).unwrap();
        }
        let shared = Arc::clone(&content);
        std::thread::spawn(move || collect(stderr, &gate, &shared));
        Self { content, open_gate }
    }

    pub(super) fn unblock(&self) {
        self.open_gate.send(()).unwrap();
    }

    /// The log so far.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.content.0.lock().unwrap().bytes.clone()
    }

    /// Waits for this text in the log; `false`: it did not appear in time.
    pub(crate) fn waits_for(&self, text: &str) -> bool {
        let mut seen = 0;
        self.wait(|content| {
            let unseen = content.bytes.get(seen..).unwrap_or_default();
            seen = content.bytes.len().saturating_sub(text.len());
            memchr::memmem::find(unseen, text.as_bytes()).is_some()
        })
    }

    /// Waits for the end of the log, when no process holds its pipe any more.
    pub(super) fn wait_for_end(&self) -> bool {
        self.wait(|content| content.at_end)
    }

    fn wait(&self, mut met: impl FnMut(&Content) -> bool) -> bool {
        let end = Instant::now() + DEADLINE;
        let (content, changed) = &*self.content;
        let mut guard = content.lock().unwrap();
        while !met(&guard) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || guard.at_end {
                return met(&guard);
            }
            guard = changed.wait_timeout(guard, left).unwrap().0;
        }
        true
    }
}

fn collect(mut stderr: ChildStderr, gate: &Receiver<()>, shared: &(Mutex<Content>, Condvar)) {
    let (content, changed) = shared;
    let mut block = vec![0; 1 << 16];
    // An error means that the test is over.
    let opened = gate.recv().is_ok();
    loop {
        let count = if opened { stderr.read(&mut block).unwrap_or(0) } else { 0 };
        let mut content = content.lock().unwrap();
        content.bytes.extend_from_slice(&block[..count]);
        content.at_end = count == 0;
        changed.notify_all();
        if count == 0 {
            return;
        }
    }
}
