//! The drain marker: the file that keeps workers from being started on this host, over restarts of the service and
//! boots, until `start-worker resume`. It says who set it, when and why.

use std::fmt;
use std::fs::Metadata;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::atomic::{self, Attributes, WriteError};
use super::private_file;

/// The marker's name, in the state directory or after the cache's own name.
const NAME: &str = "held";

/// Time limit of the marker's disk.
pub const TIME: Duration = Duration::from_secs(10);

/// Bytes of a marker that are read. One that is longer counts all the same.
const LONGEST: u64 = 16 * 1024;

/// Characters of an operator's name or reason.
pub const LONGEST_TEXT: usize = 500;

/// The marker's record: who holds this host, since when, and why, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HoldRecord {
    /// The operator.
    pub by: Option<String>,
    /// The time at which the marker was set.
    pub since: Option<Timestamp>,
    /// The operator's words.
    pub reason: Option<String>,
}

/// The marker's content.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Content {
    by: Option<String>,
    since: Option<String>,
    reason: Option<String>,
}

impl HoldRecord {
    /// A record of one line a field, short enough for a status line.
    pub fn new(by: Option<&str>, since: Timestamp, reason: Option<&str>) -> Self {
        Self { by: by.and_then(one_line), since: Some(since), reason: reason.and_then(one_line) }
    }
}

/// `held since 2026-11-29T13:00:00Z by alice: replace the disk`.
impl fmt::Display for HoldRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("held")?;
        if let Some(since) = self.since {
            write!(f, " since {since:.0}")?;
        }
        if let Some(by) = &self.by {
            write!(f, " by {by}")?;
        }
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        Ok(())
    }
}

/// The text without control characters, cut; `None`: nothing is left.
fn one_line(text: &str) -> Option<String> {
    let text: String = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .take(LONGEST_TEXT)
        .collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns the path of the marker; see [`private_file::place`].
pub fn place(state_directory: Option<&Path>, cache: Option<&Path>) -> Option<PathBuf> {
    private_file::place(NAME, state_directory, cache)
}

/// Reads the marker; `None`: there is none. A marker without a record, as older versions wrote it, counts: it was set
/// when it was last changed.
///
/// # Errors
///
/// In the marker's place is something that neither root nor this process's user made, or that is not a regular file.
pub fn read(path: &Path) -> Result<Option<HoldRecord>, private_file::Error> {
    let Some(file) = private_file::open_mark(path)? else { return Ok(None) };
    let changed = file.metadata().ok().and_then(|found| changed(&found));
    let mut bytes = Vec::new();
    // A marker that cannot be read holds, too.
    let _ = file.take(LONGEST).read_to_end(&mut bytes);
    let content = match serde_json::from_slice::<Value>(&bytes) {
        // Of an array serde would take the items for the members.
        Ok(content) if content.is_object() => serde_json::from_value(content).unwrap_or_default(),
        _ => Content::default(),
    };
    Ok(Some(HoldRecord {
        by: content.by.as_deref().and_then(one_line),
        since: content.since.and_then(|since| since.parse().ok()).or(changed),
        reason: content.reason.as_deref().and_then(one_line),
    }))
}

fn changed(found: &Metadata) -> Option<Timestamp> {
    Timestamp::try_from(found.modified().ok()?).ok()
}

/// Writes the marker. When this returns without an error, it is on the disk.
///
/// # Errors
///
/// It cannot be written.
pub fn write(path: &Path, record: &HoldRecord) -> Result<(), WriteError> {
    let content = Content {
        by: record.by.clone(),
        since: record.since.map(|since| format!("{since:.0}")),
        reason: record.reason.clone(),
    };
    // Strings make no trouble; an empty marker holds, too.
    let mut text = serde_json::to_vec(&content).unwrap_or_default();
    text.push(b'\n');
    atomic::replace(path, &text, Attributes { mode: 0o600, owner: None }, 0o700)
}

/// Removes the marker. When this returns without an error, it is gone from the disk.
///
/// # Errors
///
/// It cannot be removed.
pub fn remove(path: &Path) -> Result<(), WriteError> {
    atomic::remove(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> HoldRecord {
        HoldRecord::new(Some("alice"), Timestamp::from_second(1_000).unwrap(), Some("new\tdisk\n"))
    }

    #[test]
    fn the_state_directory_is_preferred_to_the_cache() {
        let (state, cache) = (Path::new("/var/lib/start-worker"), Path::new("/etc/cache.json"));
        assert_eq!(place(Some(state), Some(cache)), Some("/var/lib/start-worker/held".into()));
        assert_eq!(place(None, Some(cache)), Some("/etc/cache.json.held".into()));
        assert_eq!(place(None, None), None);
    }

    #[test]
    fn a_marker_says_who_when_and_why_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("held");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, &record()).unwrap();
        let found = read(&path).unwrap().unwrap();
        assert_eq!(found, record());
        assert_eq!(found.to_string(), "held since 1970-01-01T00:16:40Z by alice: new disk");
        remove(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn a_marker_of_an_older_version_and_an_empty_one_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("held");
        for text in
            ["drained by an operator; `start-worker resume` lets the worker start again\n", "", "[]", "{"]
        {
            std::fs::write(&path, text).unwrap();
            let found = read(&path).unwrap().unwrap();
            assert!(found.since.is_some(), "{text}");
            assert_eq!((found.by, found.reason), (None, None), "{text}");
        }
    }

    #[test]
    fn a_record_is_one_short_line_however_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("held");
        let long = "é".repeat(10_000);
        std::fs::write(&path, format!(r#"{{"by":"a\u001b[2J\nb","reason":"{long}"}}"#)).unwrap();
        let found = read(&path).unwrap().unwrap();
        assert_eq!(found.by, None, "longer than what is read: it counts without a record");
        std::fs::write(&path, format!(r#"{{"by":"a\u001b[2J\nb","reason":"{}"}}"#, &long[..2_000])).unwrap();
        let found = read(&path).unwrap().unwrap();
        assert_eq!(found.by.as_deref(), Some("a [2J b"));
        assert_eq!(found.reason.unwrap().chars().count(), LONGEST_TEXT);
    }

    #[test]
    fn a_link_in_the_markers_place_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("held"), folder.path().join("victim"));
        std::fs::write(&victim, "untouched").unwrap();
        for victim_there in [true, false] {
            std::os::unix::fs::symlink(&victim, &path).unwrap();
            write(&path, &record()).unwrap();
            assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
            assert!(read(&path).unwrap().is_some());
            assert_eq!(std::fs::read(&victim).ok(), victim_there.then(|| b"untouched".to_vec()));
            remove(&path).unwrap();
            let _ = std::fs::remove_file(&victim);
        }
    }

    #[test]
    fn only_a_file_of_root_or_of_our_own_is_a_marker() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("held");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), private_file::ErrorKind::Permissions);
        std::fs::remove_file(&path).unwrap();
        write(&path, &record()).unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            let error = read(&path).unwrap_err();
            assert_eq!(error.kind(), private_file::ErrorKind::Permissions);
            assert!(error.to_string().contains(&format!("`chown root {}`", path.display())), "{error}");
        }
    }
}
