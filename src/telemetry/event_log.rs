//! The event log: `events.file`, one JSON object a line, for monitoring.
//!
//! Lines are written by a task of their own, on a lane, so that a disk that hangs delays nobody. The file is opened for
//! each line, so that it can be rotated by renaming it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use crate::clock::Clock;
use crate::host::atomic::parent_of;
use crate::host::blocking::Lane;
use crate::host::trust;
use crate::redact::Secrets;

/// Lines that wait for the disk. More are lost.
const WAITING: usize = 256;

/// Time limit of the disk.
const TIME: Duration = Duration::from_secs(10);

/// Time limit of the last lines.
const LAST_LINES: Duration = Duration::from_secs(5);

/// The part of the file's end that is searched for the newest event, in bytes.
const TAIL: u64 = 64 * 1024;

/// Readable by monitoring, which need not be root.
const MODE: u32 = 0o644;

enum Job {
    Line(Vec<u8>),
    Flush(oneshot::Sender<()>),
}

/// The event log. Clones write to the same file; without one nothing happens.
#[derive(Clone, Default)]
pub struct EventLog(Option<Arc<Shared>>);

struct Shared {
    jobs: mpsc::Sender<Job>,
    clock: Arc<dyn Clock>,
    secrets: Secrets,
    boot_id: String,
}

impl EventLog {
    /// Opens the event log in `file` and notes the boot, where the newest event is of another one, an upgrade, where it is
    /// of another version, and the runner's start. Must be called within the runtime.
    pub async fn open(
        file: PathBuf,
        lane: Lane,
        clock: Arc<dyn Clock>,
        (secrets, boot_id): (Secrets, &str),
    ) -> Self {
        let (jobs, queue) = mpsc::channel(WAITING);
        let tail = {
            let path = file.clone();
            lane.at(&file, TIME, move || newest(&path)).await.ok().flatten()
        };
        tokio::spawn(write(file, lane, queue));
        let log = Self(Some(Arc::new(Shared { jobs, clock, secrets, boot_id: boot_id.to_owned() })));
        let (version, field) = (env!("CARGO_PKG_VERSION"), |name: &str| tail.as_ref()?.get(name)?.as_str());
        if field("bootID") != Some(boot_id) {
            log.record("boot", json!({}));
        }
        if let Some(from) = field("version").filter(|from| *from != version) {
            log.record("upgrade", json!({"from": from, "to": version}));
        }
        log.record("runner-start", json!({"pid": std::process::id()}));
        log
    }

    /// Notes an event. `fields`: an object.
    pub fn record(&self, event: &'static str, fields: Value) {
        let Some(shared) = &self.0 else { return };
        let mut object = Map::new();
        object.insert("time".to_owned(), json!(format!("{:.3}", shared.clock.now())));
        object.insert("bootID".to_owned(), json!(shared.boot_id));
        object.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        object.insert("event".to_owned(), json!(event));
        if let Value::Object(fields) = fields {
            let masked = fields.into_iter().map(|(name, value)| match value {
                Value::String(text) => (name, Value::String(shared.secrets.mask(text))),
                value => (name, value),
            });
            object.extend(masked);
        }
        let line = format!("{}\n", Value::Object(object));
        // The writer complains of a disk that is too slow.
        let _ = shared.jobs.try_send(Job::Line(line.into_bytes()));
    }

    /// Waits until what was noted is on its way to the disk, for 5 s at most.
    pub async fn flush(&self) {
        let Some(shared) = &self.0 else { return };
        let (done, written) = oneshot::channel();
        let flush = async {
            if shared.jobs.send(Job::Flush(done)).await.is_ok() {
                // A writer that has ended has nothing left.
                let _ = written.await;
            }
        };
        let _ = tokio::time::timeout(LAST_LINES, flush).await;
    }
}

async fn write(file: PathBuf, disk: Lane, mut queue: mpsc::Receiver<Job>) {
    let mut is_failing = false;
    while let Some(job) = queue.recv().await {
        let line = match job {
            Job::Line(line) => line,
            Job::Flush(done) => {
                // A caller that has gone needs no answer.
                let _ = done.send(());
                continue;
            }
        };
        let path = file.clone();
        let written = disk.at(&file, TIME, move || append(&path, &line)).await;
        let failure = match written {
            Ok(Ok(())) => None,
            Ok(Err(cause)) => Some(cause.to_string()),
            Err(cause) => Some(cause.to_string()),
        };
        if let Some(cause) = failure.as_ref().filter(|_| !is_failing) {
            warn!(file = %file.display(), error = cause, "cannot write to events.file: events are lost until that is mended");
        }
        is_failing = failure.is_some();
    }
}

/// Appends one line, in one write.
fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    if let Some(exposed) = trust::exchangeable(parent_of(path)) {
        return Err(io::Error::other(format!("{exposed}; `{}`", exposed.fix)));
    }
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mut file = OpenOptions::new().append(true).create(true).mode(MODE).custom_flags(flags).open(path)?;
    check(&file, path)?;
    file.write_all(line)
}

fn check(file: &File, path: &Path) -> io::Result<()> {
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if !trust::is_trusted(found.uid()) {
        return Err(io::Error::other(format!("it belongs to uid {}; `{}`", found.uid(), trust::chown(path))));
    }
    Ok(())
}

/// The newest event; `None`: there is none that can be read.
fn newest(path: &Path) -> Option<Value> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    check(&file, path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    tail.split(|byte| *byte == b'\n')
        .rev()
        .find_map(|line| serde_json::from_slice::<Value>(line).ok().filter(Value::is_object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    async fn open(path: &Path, boot: &str) -> EventLog {
        EventLog::open(path.to_owned(), Lane::default(), Arc::new(SystemClock), (Secrets::default(), boot))
            .await
    }

    fn events(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| {
                let value: Value = serde_json::from_str(line).unwrap();
                format!("{} {}", value["bootID"].as_str().unwrap(), value["event"].as_str().unwrap())
            })
            .collect()
    }

    #[tokio::test]
    async fn a_boot_is_noted_once_and_a_start_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        for boot in ["a", "a", "b"] {
            open(&path, boot).await.flush().await;
        }
        assert_eq!(events(&path), ["a boot", "a runner-start", "a runner-start", "b boot", "b runner-start"]);
    }

    #[tokio::test]
    async fn a_file_that_was_renamed_is_made_anew_and_another_version_is_an_upgrade() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, "no JSON\n{\"bootID\":\"a\",\"version\":\"0.0.1\",\"event\":\"x\"}\n\n")
            .unwrap();
        let log = open(&path, "a").await;
        log.flush().await;
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#""event":"upgrade","from":"0.0.1""#), "{text}");
        std::fs::rename(&path, folder.path().join("events.1")).unwrap();
        log.record("hold", json!({}));
        log.flush().await;
        assert_eq!(events(&path), ["a hold"]);
    }

    #[tokio::test]
    async fn a_secret_is_not_written_and_a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let secrets = Secrets::default();
        secrets.add("very-secret-password");
        let log = EventLog::open(path.clone(), Lane::default(), Arc::new(SystemClock), (secrets, "a")).await;
        log.record("hold", json!({"reason": "it is very-secret-password"}));
        log.flush().await;
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("hold") && !text.contains("very-secret-password"), "{text}");
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        log.record("hold", json!({}));
        log.flush().await;
        assert_eq!(std::fs::read(&victim).unwrap(), b"");
    }
}
