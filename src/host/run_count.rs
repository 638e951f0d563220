//! Counts the worker's runs in this boot, over restarts of the runner.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;

use super::atomic::{self, Attributes};
use super::blocking::Lane;
use super::private_file;

/// The file's name in the state directory: the boot's ID and the count.
const NAME: &str = "runs";

/// Time limit of the disk.
const TIME: Duration = Duration::from_secs(10);

/// More than the file ever has, in bytes.
const LONGEST: u64 = 200;

/// The kernel's ID of this boot (`random(4)`); empty where it cannot be read.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// The count. Clones share it.
#[derive(Debug, Clone)]
pub struct RunCount {
    path: Option<PathBuf>,
    lane: Lane,
    boot_id: Arc<str>,
    last: Arc<Mutex<u32>>,
}

impl RunCount {
    /// A count that is kept in the state directory; without one, for as long as this runner lives.
    pub fn new(state_directory: Option<&Path>, lane: Lane, boot_id: &str) -> Self {
        let path = state_directory.map(|folder| folder.join(NAME));
        Self { path, lane, boot_id: boot_id.into(), last: Arc::default() }
    }

    /// The kernel's ID of this boot.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Counts one more run, and returns its number, from 1.
    pub async fn next(&self) -> u32 {
        let here = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            *last = last.saturating_add(1);
            *last
        };
        let Some(path) = self.path.clone() else { return here };
        let (file, boot_id) = (path.clone(), self.boot_id.clone());
        let count = move || -> Result<u32, String> {
            let next = read(&file, &boot_id).map_err(|cause| cause.to_string())?.saturating_add(1).max(here);
            let text = format!("{boot_id} {next}\n");
            let attributes = Attributes { mode: 0o600, owner: None };
            atomic::replace(&file, text.as_bytes(), attributes, 0o700)
                .map_err(|cause| format!("{cause}: {}", cause.io()))?;
            Ok(next)
        };
        let counted = self.lane.at(&path, TIME, count).await.map_err(|cause| cause.to_string());
        match counted.and_then(|counted| counted) {
            Ok(number) => {
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = number;
                number
            }
            Err(cause) => {
                warn!(
                    error = cause,
                    "cannot count the worker's runs in this boot: counting those of this start-worker"
                );
                here
            }
        }
    }
}

/// The last number of this boot; 0 where there is none.
fn read(path: &Path, boot_id: &str) -> Result<u32, private_file::Error> {
    let Some(file) = private_file::open_mark(path)? else { return Ok(0) };
    let mut text = String::new();
    // What cannot be read is no number.
    let _ = file.take(LONGEST).read_to_string(&mut text);
    let count = text.trim().split_once(' ').filter(|(boot, _)| *boot == boot_id);
    Ok(count.and_then(|(_, count)| count.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn runs_are_counted_over_runners_and_from_one_in_the_next_boot() {
        let folder = tempfile::tempdir().unwrap();
        let runner = |boot: &str| RunCount::new(Some(folder.path()), Lane::default(), boot);
        let first = runner("a");
        assert_eq!((first.next().await, first.next().await), (1, 2));
        assert_eq!(runner("a").next().await, 3);
        assert_eq!(runner("b").next().await, 1);
        std::fs::write(folder.path().join(NAME), "b many\n").unwrap();
        assert_eq!(runner("b").next().await, 1);
    }

    #[tokio::test]
    async fn without_a_place_or_with_another_users_file_those_of_this_runner_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join(NAME)).unwrap();
        for place in [None, Some(folder.path())] {
            let runs = RunCount::new(place, Lane::default(), "a");
            assert_eq!((runs.next().await, runs.next().await), (1, 2));
        }
    }
}
