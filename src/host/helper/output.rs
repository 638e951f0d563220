//! Output of a helper: both pipes are read to their end, and the beginning is kept.

use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

use super::HelperError;

/// Maximum length of a summary, in characters.
pub(super) const SUMMARY: usize = 1024;

const SUMMARY_LINES: usize = 10;

/// The result of a helper that has exited.
#[derive(Debug)]
pub struct Output {
    /// The program's name, as the caller gave it.
    pub program: String,
    pub status: ExitStatus,
    /// The beginning of stdout.
    pub stdout: Vec<u8>,
    /// The beginning of stderr.
    pub stderr: Vec<u8>,
}

impl Output {
    /// # Errors
    ///
    /// The helper exited with a failure.
    pub fn success(self) -> Result<Self, HelperError> {
        if self.status.success() {
            return Ok(self);
        }
        let message = summary(&self.stderr);
        Err(HelperError::Failed { program: self.program, status: self.status, message })
    }

    /// The first lines that the helper wrote, joined into one line.
    pub fn said(&self) -> String {
        summary(&[self.stdout.as_slice(), self.stderr.as_slice()].join(&b'\n'))
    }
}

/// Joins the first lines of an output into one line.
fn summary(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let text = lines.take(SUMMARY_LINES).collect::<Vec<_>>().join("; ");
    // `…` tells the redaction that a secret may have been cut.
    let end = text.char_indices().nth(SUMMARY).map(|(end, _)| end);
    end.and_then(|end| text.get(..end)).map(|shown| format!("{shown}…")).unwrap_or(text)
}

/// Receives each line that a helper writes, as long as there are not too many.
pub type PrintLine = Arc<dyn Fn(&str) + Send + Sync>;

/// The treatment of a helper's output. Its pipes are read to their end in any case.
#[derive(Clone)]
pub(super) enum Reading {
    /// The beginning is kept, so many bytes of it.
    Keep(usize),
    /// Each line is printed when it comes.
    Print(PrintLine),
}

/// The longest line that is printed, in bytes.
const LONGEST_LINE: usize = 4096;

/// The limit of the output that is printed, in bytes, where each line costs its length and the room that a log record takes.
const MOST_PRINTED: usize = 256 * 1024;
const RECORD: usize = 64;

/// The room for one read of a pipe whose lines are printed.
const READ: usize = 64 * 1024;

/// A pipe's bytes on their way to lines. Bounded: what exceeds that is counted.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    /// The present line is longer than what is kept of it.
    is_cut: bool,
    printed: usize,
    left_out: u64,
}

impl Lines {
    fn take(&mut self, mut bytes: &[u8], print: &PrintLine) {
        while self.printed < MOST_PRINTED {
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                return self.extend(bytes);
            };
            let (line, rest) = bytes.split_at_checked(end).unwrap_or_default();
            self.extend(line);
            self.print(print);
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.leave_out(bytes);
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = LONGEST_LINE.saturating_sub(self.line.len()).min(bytes.len());
        let (fits, rest) = bytes.split_at_checked(room).unwrap_or_default();
        self.line.extend_from_slice(fits);
        self.is_cut |= !rest.is_empty();
        self.leave_out(rest);
    }

    fn leave_out(&mut self, bytes: &[u8]) {
        self.left_out = self.left_out.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }

    fn print(&mut self, print: &PrintLine) {
        let line = std::mem::take(&mut self.line);
        self.printed = self.printed.saturating_add(line.len()).saturating_add(RECORD);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        // `…` tells the mask that a secret may have been cut.
        if std::mem::take(&mut self.is_cut) { print(&format!("{text}…")) } else { print(text) }
    }

    fn end(&mut self, print: &PrintLine) {
        if !self.line.is_empty() {
            self.print(print);
        }
        if self.left_out > 0 {
            print(&format!("… ({} bytes more, not shown)", self.left_out));
        }
    }
}

async fn print_lines(mut pipe: impl AsyncRead + Unpin, print: PrintLine) {
    let (mut buffer, mut lines) = (vec![0; READ], Lines::default());
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        lines.take(buffer.get(..count).unwrap_or_default(), &print);
    }
    lines.end(&print);
}

/// The beginning of what comes from a pipe, with `…` after it if more came. The pipe is always read to its end.
#[derive(Debug)]
pub(super) struct Capture {
    kept: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl Capture {
    pub(super) fn start(pipe: Option<impl AsyncRead + Unpin + Send + 'static>, reading: &Reading) -> Self {
        match reading {
            Reading::Keep(keep) => Self::keep(pipe, *keep),
            Reading::Print(print) => {
                let print = print.clone();
                let reading = tokio::spawn(async move {
                    if let Some(pipe) = pipe {
                        print_lines(pipe, print).await;
                    }
                });
                Self { kept: Arc::default(), reading }
            }
        }
    }

    fn keep(pipe: Option<impl AsyncRead + Unpin + Send + 'static>, keep: usize) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let its = kept.clone();
        let reading = tokio::spawn(async move {
            let Some(mut pipe) = pipe else { return };
            let (mut buffer, mut marked) = ([0; 4096], false);
            while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
                let mut kept = its.lock().unwrap_or_else(PoisonError::into_inner);
                let room = keep.saturating_sub(kept.len()).min(count);
                kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
                if room < count && !std::mem::replace(&mut marked, true) {
                    kept.extend_from_slice("…".as_bytes());
                }
            }
        });
        Self { kept, reading }
    }

    pub(super) async fn ended(&mut self) {
        let _ = (&mut self.reading).await;
    }

    pub(super) fn kept(&self) -> Vec<u8> {
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(chunks: &[&[u8]]) -> Vec<String> {
        let said = Arc::new(Mutex::new(Vec::new()));
        let its = said.clone();
        let print: PrintLine = Arc::new(move |line| its.lock().unwrap().push(line.to_owned()));
        let mut lines = Lines::default();
        for chunk in chunks {
            lines.take(chunk, &print);
        }
        lines.end(&print);
        std::mem::take(&mut *said.lock().unwrap())
    }

    #[test]
    fn lines_are_printed_whole_however_they_come() {
        assert_eq!(printed(&[b"a\nb", b"c\r\n\nlast"]), ["a", "bc", "", "last"]);
        assert_eq!(printed(&[]), [""; 0]);
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_is_whole() {
        let long = [&[b'x'; LONGEST_LINE][..], b"yy"].concat();
        let said = printed(&[&long, b"y\nnext\n"]);
        assert_eq!(said[0], format!("{}…", "x".repeat(LONGEST_LINE)));
        assert_eq!(said[1..], ["next", "… (3 bytes more, not shown)"]);
    }

    #[test]
    fn what_exceeds_the_bound_is_counted() {
        let flood = vec![b"0123456789\n".repeat(1000); 100];
        let chunks: Vec<&[u8]> = flood.iter().map(Vec::as_slice).collect();
        let said = printed(&chunks);
        assert!(said.len() <= MOST_PRINTED / (10 + RECORD) + 2, "{}", said.len());
        let last = said.last().unwrap();
        let shown = (said.len() - 1) * 11;
        assert_eq!(*last, format!("… ({} bytes more, not shown)", 1_100_000 - shown));
    }
}
