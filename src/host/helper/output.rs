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

/// The beginning of a pipe's content, followed by `…` if there was more. The pipe is always read to its end.
#[derive(Debug)]
pub(super) struct Capture {
    kept: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl Capture {
    pub(super) fn start(pipe: Option<impl AsyncRead + Unpin + Send + 'static>, keep: usize) -> Self {
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
