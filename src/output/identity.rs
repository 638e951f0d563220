//! The worker's identity in every JSON record and every journal entry.
//!
//! systemd's "Native Journal Protocol" uses one datagram for each entry, with one `FIELD=value` a line. Rendered lines
//! are converted to entries here. A worker's line becomes the entry's message. It cannot begin another field, because a
//! line contains no line break.

use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::render::Stream;
use crate::run_spec::WorkerIdentity;

/// Precedes each field of an entry that the runner itself has rendered. No other line begins with it, because workers'
/// lines have a tag, and no field contains a control character.
pub const BEGINS_ENTRY: char = '\u{1}';

/// Maximum size of a message in one entry, in bytes: a socket accepts a few hundred KiB at once. The rest follows in
/// further entries, with the usual markers of a split line.
const LONGEST_MESSAGE: usize = 64 * 1024;

/// The identity of the worker whose log this is.
#[derive(Debug)]
pub struct Identity {
    json: String,
    /// One `FIELD=value` a line.
    journal: String,
    worker: &'static str,
}

impl Identity {
    pub fn new(worker: &'static str, identity: &WorkerIdentity) -> Self {
        let (mut json, mut journal) = (String::new(), String::new());
        for (key, field, value) in [
            ("workerPool", "POOL", identity.worker_pool_id.as_str()),
            ("workerGroup", "GROUP", &identity.worker_group),
            ("workerId", "ID", &identity.worker_id),
        ] {
            // Writing to a String cannot fail.
            let _ = write!(json, "\"{key}\":{},", Value::from(value));
            let value = value.replace(char::is_control, " ");
            let _ = writeln!(journal, "TASKCLUSTER_WORKER_{field}={value}");
        }
        Self { json, journal, worker }
    }

    /// `"workerPool":"aa/bb","workerGroup":"…","workerId":"…",`
    pub fn json(&self) -> &str {
        &self.json
    }
}

/// Converts lines to journal entries.
#[derive(Debug)]
pub(super) struct Entries {
    identity: Arc<OnceLock<Identity>>,
    entry: Vec<u8>,
}

impl Entries {
    pub(super) fn new(identity: Arc<OnceLock<Identity>>) -> Self {
        Self { identity, entry: Vec::new() }
    }

    /// Converts all lines of a block.
    pub(super) fn make(&mut self, block: &[u8], mut write: impl FnMut(&[u8])) {
        let identity = self.identity.clone();
        let (journal, worker) =
            identity.get().map_or(("", "worker"), |identity| (&identity.journal, identity.worker));
        for line in block.strip_suffix(b"\n").unwrap_or(block).split(|byte| *byte == b'\n') {
            let mut begin = [0; 4];
            if let Some(fields) = line.strip_prefix(BEGINS_ENTRY.encode_utf8(&mut begin).as_bytes()) {
                self.begin("start-worker", journal);
                for field in fields.split(|byte| char::from(*byte) == BEGINS_ENTRY) {
                    self.entry.extend_from_slice(cut(field, LONGEST_MESSAGE).0);
                    self.entry.push(b'\n');
                }
                write(&self.entry);
                continue;
            }
            let (stream, mut rest) = tagged(line);
            let mut first = true;
            while first || !rest.is_empty() {
                let (message, more) = cut(rest, LONGEST_MESSAGE);
                self.begin(worker, journal);
                let stream = format!("PRIORITY=6\nSTART_WORKER_STREAM={}\nMESSAGE=", stream.name());
                self.entry.extend_from_slice(stream.as_bytes());
                self.entry.extend_from_slice(if first { b"" } else { super::render::CONTINUED });
                self.entry.extend_from_slice(message);
                self.entry.extend_from_slice(if more.is_empty() { b"" } else { super::render::CONTINUES });
                self.entry.push(b'\n');
                write(&self.entry);
                (rest, first) = (more, false);
            }
        }
    }

    fn begin(&mut self, identifier: &str, journal: &str) {
        self.entry.clear();
        self.entry.extend_from_slice(format!("SYSLOG_IDENTIFIER={identifier}\n{journal}").as_bytes());
    }
}

/// Splits off the line's tag.
fn tagged(line: &[u8]) -> (Stream, &[u8]) {
    for stream in [Stream::Stdout, Stream::Stderr] {
        if let Some(rest) = line.strip_prefix(format!("<6>[{}] ", stream.tag()).as_bytes()) {
            return (stream, rest);
        }
    }
    (Stream::Stdout, line)
}

/// Splits off the longest prefix that does not end inside a character.
pub(super) fn cut(line: &[u8], longest: usize) -> (&[u8], &[u8]) {
    let Some(kept) = line.get(..longest).filter(|_| line.len() > longest) else { return (line, b"") };
    let end = match std::str::from_utf8(kept) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => longest,
    };
    line.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_spec::WorkerPoolId;

    fn entries(block: &[u8]) -> Vec<String> {
        let identity = WorkerIdentity {
            provider_id: "static".to_owned(),
            worker_pool_id: WorkerPoolId::parse("aa/bb").unwrap(),
            worker_group: "group".to_owned(),
            worker_id: "one\nMESSAGE=forged".to_owned(),
        };
        let identity = Arc::new(OnceLock::from(Identity::new("generic-worker", &identity)));
        let mut made = Vec::new();
        Entries::new(identity).make(block, |entry| made.push(String::from_utf8_lossy(entry).into_owned()));
        made
    }

    const WHOSE: &str = "TASKCLUSTER_WORKER_POOL=aa/bb\nTASKCLUSTER_WORKER_GROUP=group\nTASKCLUSTER_WORKER_ID=one MESSAGE=forged\n";

    #[test]
    fn a_workers_line_is_a_message_and_nothing_else_whatever_is_in_it() {
        let made = entries(b"<6>[worker] PRIORITY=0\x01MESSAGE=x\n<6>[stderr] \n");
        let begin = format!("SYSLOG_IDENTIFIER=generic-worker\n{WHOSE}PRIORITY=6\nSTART_WORKER_STREAM=");
        let expected = [
            format!("{begin}stdout\nMESSAGE=PRIORITY=0\u{1}MESSAGE=x\n"),
            format!("{begin}stderr\nMESSAGE=\n"),
        ];
        assert_eq!(made, expected);
    }

    #[test]
    fn a_line_of_the_runner_has_its_fields() {
        let made = entries("\u{1}PRIORITY=4\u{1}MESSAGE=worker exited\u{1}START_WORKER_RAN=3s\n".as_bytes());
        let expected = format!(
            "SYSLOG_IDENTIFIER=start-worker\n{WHOSE}PRIORITY=4\nMESSAGE=worker exited\nSTART_WORKER_RAN=3s\n"
        );
        assert_eq!(made, [expected]);
    }

    #[test]
    fn a_long_line_becomes_several_entries_and_no_character_is_cut() {
        let text = format!("x{}", "ä".repeat(LONGEST_MESSAGE));
        let made = entries(format!("<6>[worker] {text}\n").as_bytes());
        let parts: Vec<&str> = made
            .iter()
            .map(|entry| entry.split_once("MESSAGE=").unwrap().1.rsplit_once("MESSAGE=").unwrap().1)
            .map(|part| part.strip_prefix("[line continued] ").unwrap_or(part).trim_end())
            .map(|part| part.strip_suffix(" [line continues]").unwrap_or(part))
            .collect();
        assert_eq!((parts.len(), parts.concat()), (3, text));
        assert!(made.iter().all(|entry| entry.len() < LONGEST_MESSAGE + 1024));
    }
}
