//! Reads the workers' records as they grow.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde_json::Value;

/// A worker, as far as it has told.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) pid: i32,
    /// Number of workers that started before this one.
    pub(crate) number: usize,
    /// Expiry of its credentials, in ms since the epoch. None: they do not expire.
    pub(crate) expires: Option<i64>,
}

/// The record's reader.
pub(crate) struct Record {
    path: PathBuf,
    offset: u64,
}

impl Record {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0 }
    }

    /// The events since this was asked last.
    pub(crate) fn news(&mut self) -> Vec<Value> {
        let Ok(file) = File::open(&self.path) else { return Vec::new() };
        let length = file.metadata().map(|about| about.len()).unwrap_or_default();
        let mut bytes = vec![0; usize::try_from(length.saturating_sub(self.offset)).unwrap_or_default()];
        if bytes.is_empty() || file.read_exact_at(&mut bytes, self.offset).is_err() {
            return Vec::new();
        }
        // The last line may not be complete yet.
        let Some(end) = memchr::memrchr(b'\n', &bytes) else { return Vec::new() };
        self.offset += end as u64 + 1;
        bytes[..end]
            .split(|&byte| byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }
}

impl Worker {
    /// From the event of its start.
    pub(crate) fn started(event: &Value, number: usize) -> Self {
        Self { pid: pid_of(event), number, expires: expiry(&event["env"]["TASKCLUSTER_CERTIFICATE"]) }
    }

    /// Records that the worker received new credentials.
    pub(crate) fn renewed(&mut self, message: &Value) {
        self.expires = expiry(&message["certificate"]);
    }
}

pub(crate) fn pid_of(event: &Value) -> i32 {
    event["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default()
}

/// The expiry of a certificate, which is a string that holds JSON.
fn expiry(certificate: &Value) -> Option<i64> {
    serde_json::from_str::<Value>(certificate.as_str()?).ok()?["expiry"].as_i64()
}
