//! The record of the latest run: a file in the state directory that shows how the run ended when start-worker is not
//! running.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tracing::debug;

use crate::host::atomic::{self, Attributes};
use crate::host::blocking::Lane;
use crate::host::private_file::{self, Access, ErrorKind};
use crate::redact::cut;
use crate::telemetry::recent_warnings::Known;

/// The record's name in the state directory.
const NAME: &str = "last-run.json";

/// Time limit of the record's disk, and the maximum delay of the runner's end.
const TIME: Duration = Duration::from_secs(1);

/// Maximum size of a record that is read, in bytes.
const LIMIT: u64 = 256 * 1024;

/// Maximum length of an outcome, in characters: enough for a runner configuration with many errors.
const LONGEST_OUTCOME: usize = 8000;

/// The record in the form that docs/status.md describes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    started: String,
    /// `None`: the run continues, or ended without time to record it.
    ended: Option<String>,
    exit_code: Option<u8>,
    outcome: Option<String>,
    runner_config: String,
    version: &'static str,
    pid: u32,
    troubles: Vec<Trouble>,
}

#[derive(Debug, Clone, Serialize)]
struct Trouble {
    at: String,
    level: &'static str,
    text: String,
}

#[derive(Debug, Clone)]
pub struct LastRun {
    /// `None`: there is no state directory, and nothing is recorded.
    path: Option<PathBuf>,
    lane: Lane,
    record: Record,
}

impl LastRun {
    /// Creates the record of a run that starts now.
    pub fn new(state_directory: Option<&Path>, runner_config: &Path, lane: Lane) -> Self {
        let record = Record {
            started: time(Timestamp::now()),
            ended: None,
            exit_code: None,
            outcome: None,
            runner_config: runner_config.display().to_string(),
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            troubles: Vec::new(),
        };
        Self { path: state_directory.map(|folder| folder.join(NAME)), lane, record }
    }

    /// Records that the run has begun. Replaces the record of the run before it, which says nothing about the current
    /// state.
    pub async fn begin(self) {
        self.write().await;
    }

    /// Records how the run ended. Neither `outcome` nor the warnings contain known secrets.
    pub async fn end(mut self, exit_code: u8, outcome: &str, warnings: &Known) {
        self.record.ended = Some(time(Timestamp::now()));
        self.record.exit_code = Some(exit_code);
        self.record.outcome = Some(cut(outcome, LONGEST_OUTCOME, "…").into_owned());
        self.record.troubles = warnings
            .last
            .iter()
            .map(|warning| Trouble {
                at: time(warning.at),
                level: if warning.is_error { "error" } else { "warning" },
                text: warning.text.clone(),
            })
            .collect();
        self.write().await;
    }

    /// Writes the record. If that fails, `status` has nothing to show, and everything else works.
    async fn write(&self) {
        let Some(path) = self.path.clone() else { return };
        // Serializing strings and numbers cannot fail.
        let text = serde_json::to_vec(&self.record).unwrap_or_default();
        let at = path.clone();
        let write = move || atomic::replace(&at, &text, Attributes { mode: 0o600, owner: None }, 0o700);
        match self.lane.at(&path, TIME, write).await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => debug!(error = %cause, cause = %cause.io(), "this run is not recorded"),
            Err(cause) => debug!(error = %cause, "this run is not recorded"),
        }
    }
}

/// Formats a time with a precision of seconds.
fn time(time: Timestamp) -> String {
    format!("{time:.0}")
}

/// The state directory of the service with this status socket: systemd creates `StateDirectory=NAME` below `/var/lib`,
/// and `RuntimeDirectory=NAME` below `/run` (systemd.exec(5)).
pub fn state_directory_of(socket: &Path) -> Option<PathBuf> {
    let below = socket.parent()?.strip_prefix("/run").ok()?;
    Some(Path::new("/var/lib").join(below)).filter(|_| !below.as_os_str().is_empty())
}

/// Reads the record in this state directory. `None`: there is none. The error says why a record is not shown: another
/// user owns it or can write to it, or it is not a record.
pub fn read(state_directory: &Path) -> Result<Option<Value>, String> {
    let path = state_directory.join(NAME);
    let contents = match private_file::read(&path, Access::Refuse, LIMIT) {
        Ok(contents) => contents,
        Err(cause) if cause.kind() == ErrorKind::Missing => return Ok(None),
        Err(cause) => return Err(cause.to_string()),
    };
    if let Some(warning) = contents.warnings.first() {
        return Err(format!("{}: {warning}", path.display()));
    }
    let record =
        serde_json::from_slice::<Value>(&contents.bytes).ok().filter(|record| record["started"].is_string());
    record.map(Some).ok_or_else(|| format!("{} is no record of a run; remove it", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_belongs_to_the_socket_as_the_units_have_it() {
        for (socket, folder) in [
            ("/run/start-worker/status.sock", Some("/var/lib/start-worker")),
            ("/run/start-worker/first/status.sock", Some("/var/lib/start-worker/first")),
            ("/run/status.sock", None),
            ("/srv/status.sock", None),
            ("status.sock", None),
        ] {
            assert_eq!(state_directory_of(Path::new(socket)), folder.map(PathBuf::from), "{socket}");
        }
    }

    #[tokio::test]
    async fn a_record_is_read_as_it_was_written_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        assert_eq!(read(at), Ok(None));
        let run = LastRun::new(Some(at), Path::new("/etc/start-worker.yml"), Lane::default());
        run.clone().begin().await;
        let begun = read(at).unwrap().unwrap();
        assert_eq!((&begun["ended"], &begun["pid"]), (&Value::Null, &std::process::id().into()));
        run.end(75, "no answer", &Known::default()).await;
        let ended = read(at).unwrap().unwrap();
        assert_eq!((&ended["exitCode"], &ended["outcome"]), (&75.into(), &"no answer".into()));

        let path = at.join(NAME);
        for text in ["", "{", "[]", "{}", "7"] {
            std::fs::write(&path, text).unwrap();
            assert!(read(at).unwrap_err().ends_with("is no record of a run; remove it"), "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(read(at).unwrap_err().contains("found a symbolic link"));
    }

    #[tokio::test]
    async fn without_a_state_directory_nothing_is_recorded() {
        let run = LastRun::new(None, Path::new("runner.yml"), Lane::default());
        run.end(0, "stopped as asked", &Known::default()).await;
    }
}
