//! The log's sink. Every block is written completely, whatever the sink is; losses are reported once the sink works
//! again.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::warn;

use super::Format;
use super::identity::{Entries, Identity};
use super::render::Renderer;
use super::stream::guarded;

/// The size in bytes above which a block is written before more is rendered.
const BLOCK: usize = 256 * 1024;

/// The renderer and the sink.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) renderer: Renderer,
    /// Converts lines to journal entries, if the sink is the journal.
    entries: Option<Entries>,
    /// True if a journal reads the lines: see [`guarded`].
    guards: bool,
    sink: Sink,
}

/// The sink and its losses.
#[derive(Debug)]
struct Sink {
    fd: OwnedFd,
    /// Bytes lost since it last worked.
    lost: u64,
    /// Bytes lost in total.
    ever_lost: u64,
    /// True if the last write ended inside a line whose rest was lost.
    inside_line: bool,
    /// True if control characters have an effect on the sink: see [`visible`].
    is_terminal: bool,
}

impl Log {
    pub(super) fn new(sink: OwnedFd, format: Format, identity: Arc<OnceLock<Identity>>) -> Self {
        enlarge(&sink);
        let is_terminal = sink.is_terminal();
        let sink = Sink { fd: sink, lost: 0, ever_lost: 0, inside_line: false, is_terminal };
        let entries = (format == Format::Journald).then(|| Entries::new(identity.clone()));
        let guards = format == Format::Prioritised;
        Self { renderer: Renderer::new(format, identity), entries, guards, sink }
    }

    /// Returns true if the block should be written now.
    pub(super) fn is_full(&self) -> bool {
        self.renderer.out.len() >= BLOCK
    }

    /// The total number of bytes that could not be written.
    pub(super) fn ever_lost(&self) -> u64 {
        self.sink.ever_lost
    }

    /// The number of bytes that wait to be written.
    pub(super) fn len(&self) -> usize {
        self.renderer.out.len()
    }

    /// The text rendered since [`len`](Self::len) was `from`.
    pub(super) fn since(&self, from: usize) -> &[u8] {
        self.renderer.out.get(from..).unwrap_or_default()
    }

    /// Writes all rendered lines, and waits for a slow sink.
    pub(super) fn flush(&mut self) {
        let block = &mut self.renderer.out;
        if block.is_empty() {
            return;
        }
        if let Some(entries) = &mut self.entries {
            let sink = &mut self.sink;
            entries.make(block, |entry| {
                sink.write(entry);
                // A datagram is sent as a whole.
                sink.inside_line = false;
            });
        } else {
            if self.sink.inside_line {
                block.insert(0, b'\n');
            }
            if self.sink.is_terminal {
                chunks(block, |chunk| self.sink.write(visible(chunk).as_bytes()));
            } else if self.guards {
                chunks(block, |chunk| self.sink.write(&guarded(chunk)));
            } else {
                self.sink.write(block);
            }
        }
        block.clear();
        block.shrink_to(BLOCK);
    }
}

/// Gives a log that is a smaller pipe room for a whole block, because each write that fills a pipe waits for its reader.
/// Other sinks refuse, and a pipe stays as it is if its user has used up what pipes may hold.
fn enlarge(sink: &OwnedFd) {
    let wanted = i32::try_from(BLOCK).unwrap_or(i32::MAX);
    if fcntl(sink, FcntlArg::F_GETPIPE_SZ).is_ok_and(|size| size < wanted) {
        let _ = fcntl(sink, FcntlArg::F_SETPIPE_SZ(wanted));
    }
}

/// Passes a block to `write` in chunks of whole lines, about [`BLOCK`] bytes each, because their converted form needs
/// memory, too.
fn chunks(block: &[u8], mut write: impl FnMut(&[u8])) {
    let mut rest = block;
    while let Some(end) = rest.get(BLOCK..).and_then(|after| memchr::memchr(b'\n', after)) {
        let (chunk, more) = rest.split_at(BLOCK + end + 1);
        write(chunk);
        rest = more;
    }
    if !rest.is_empty() {
        write(rest);
    }
}

/// Escapes control characters for a terminal. They could erase a line of the runner's own, or overwrite the tag of a
/// worker's line until it looks like one. For other sinks, output is unchanged.
fn visible(block: &[u8]) -> String {
    let text = String::from_utf8_lossy(block);
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\n' | '\t' => shown.push(character),
            // A Windows line end.
            '\r' if characters.peek() == Some(&'\n') => {}
            _ if character.is_control() => shown.extend(character.escape_default()),
            _ => shown.push(character),
        }
    }
    shown
}

impl Sink {
    /// Drops what cannot be written (a full disk, a reader that has exited), so that the worker continues.
    fn write(&mut self, block: &[u8]) {
        let mut rest = block;
        while !rest.is_empty() {
            match nix::unistd::write(self.fd.as_fd(), rest) {
                Ok(0) => return self.lose(rest),
                Ok(written) => {
                    let (done, more) = rest.split_at(written.min(rest.len()));
                    self.inside_line = done.last() != Some(&b'\n');
                    rest = more;
                    self.works_again();
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait(),
                Err(_) => return self.lose(rest),
            }
        }
    }

    fn lose(&mut self, rest: &[u8]) {
        self.lost = self.lost.saturating_add(rest.len() as u64);
        self.ever_lost = self.ever_lost.saturating_add(rest.len() as u64);
    }

    fn works_again(&mut self) {
        if self.lost > 0 {
            warn!(name: "log-bytes-lost", bytes = std::mem::take(&mut self.lost), "part of the log could not be written and is lost");
        }
    }

    /// Waits for a sink that another process made non-blocking.
    fn wait(&self) {
        let mut ready = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
        // If the wait fails, the next write reports the cause.
        let _ = poll(&mut ready, PollTimeout::NONE);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_follows_a_loss_begins_on_a_line_of_its_own() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut log = Log::new(writer.into(), Format::Text, Arc::default());
        log.sink.inside_line = true;
        log.sink.lost = 7;
        log.renderer.out.extend_from_slice(b"next\n");
        log.flush();
        log.renderer.out.extend_from_slice(b"after\n");
        log.flush();
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\nnext\nafter\n");
    }

    #[test]
    fn on_a_terminal_no_worker_can_wipe_out_or_write_over_a_line() {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let mut log = Log::new(terminal.slave, Format::Text, Arc::default());
        let forged = b"[worker] \r2026-11-23T19:12:00.123Z INFO  all is well\x1b[K\xc2\x9b2J\t\xc3\xa9\r\n";
        log.renderer.out.extend_from_slice(forged);
        log.renderer.out.extend_from_slice(b"next\n");
        log.flush();
        let mut screen = std::fs::File::from(terminal.master);
        let mut text = Vec::new();
        while !text.ends_with(b"next\r\n") {
            let mut block = [0; 4096];
            let length = screen.read(&mut block).unwrap();
            text.extend_from_slice(&block[..length]);
        }
        let shown =
            "[worker] \\r2026-11-23T19:12:00.123Z INFO  all is well\\u{1b}[K\\u{9b}2J\t\u{e9}\r\nnext\r\n";
        assert_eq!(String::from_utf8(text).unwrap(), shown);
    }

    #[test]
    fn elsewhere_output_stays_as_it_is() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut log = Log::new(writer.into(), Format::Text, Arc::default());
        log.renderer.out.extend_from_slice(b"10%\r20%\x1b[31m\r\n");
        log.flush();
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "10%\r20%\x1b[31m\r\n");
    }

    #[test]
    fn where_a_journal_reads_lines_no_byte_but_a_line_break_ends_one() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut log = Log::new(writer.into(), Format::Prioritised, Arc::default());
        log.renderer.out.extend_from_slice(b"<6>[worker] x\0<3>forged\n");
        log.flush();
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "<6>[worker] x\u{fffd}<3>forged\n");
    }

    #[test]
    fn a_sink_without_reader_loses_what_is_written_and_counts_it() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut log = Log::new(writer.into(), Format::Text, Arc::default());
        for _ in 0..2 {
            log.renderer.out.extend_from_slice(b"1234\n");
            log.flush();
        }
        assert_eq!((log.sink.lost, log.len()), (10, 0));
    }
}
