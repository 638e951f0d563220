//! The marker that keeps a worker from starting after an operator drained this host and the worker rebooted it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{error, info, warn};

use super::atomic::{self, Attributes, WriteError};
use super::blocking::{Lane, Unanswered};
use super::private_file;

/// The marker's name in the state directory, or the suffix appended to the cache's name.
const NAME: &str = "held";

/// Time limit for the marker's disk.
const TIME: Duration = Duration::from_secs(10);

/// The marker's path: in the state directory, otherwise beside the cache. `None`: neither is configured.
pub fn place(state_directory: Option<&Path>, cache: Option<&Path>) -> Option<PathBuf> {
    if let Some(folder) = state_directory {
        return Some(folder.join(NAME));
    }
    let cache = cache?;
    let mut name = cache.file_name()?.to_owned();
    name.push(format!(".{NAME}"));
    Some(cache.with_file_name(name))
}

/// Creates the marker. On failure, logs what will happen after the boot.
pub async fn mark(place: Option<&Path>, lane: &Lane) {
    let Some(path) = place else {
        warn!(
            "drained, and the worker reboots the host: it will start again after the boot, for there is no state directory (and no cacheOverRestarts) to note the drain in"
        );
        return;
    };
    let marked = path.to_owned();
    let written = lane.at(path, TIME, move || write(&marked)).await;
    match written
        .map_err(|cause| cause.to_string())
        .and_then(|written| written.map_err(|cause| format!("{cause}: {}", cause.io())))
    {
        Ok(()) => info!(
            mark = %path.display(),
            "drained, and the worker reboots the host: no worker is started after the boot until `start-worker resume`"
        ),
        Err(cause) => error!(
            mark = %path.display(), error = cause,
            "cannot note the drain: the worker will start again after the boot"
        ),
    }
}

/// Returns true if the marker exists. Fails if the disk does not answer, or if the path holds something other than a
/// regular file of root or of this process's user.
pub async fn is_marked(path: &Path, lane: &Lane) -> Result<Result<bool, private_file::Error>, Unanswered> {
    let mark = path.to_owned();
    lane.at(path, TIME, move || private_file::is_marked(&mark)).await
}

/// Removes the marker. When this returns `Ok`, the removal is on the disk.
pub async fn unmark(path: &Path, lane: &Lane) -> Result<Result<(), WriteError>, Unanswered> {
    let mark = path.to_owned();
    lane.at(path, TIME, move || atomic::remove(&mark)).await
}

/// Creates the marker because the worker found this host unfit for tasks. Returns true if it is on the disk.
pub async fn mark_unfit(place: Option<&Path>, lane: &Lane) -> bool {
    let Some(path) = place else {
        warn!(
            "this host holds only until start-worker ends: there is no state directory (and no cacheOverRestarts) for the marker"
        );
        return false;
    };
    let marked = path.to_owned();
    let text =
        "the worker found this host unfit for tasks; `start-worker resume` lets the worker start again\n";
    let written = lane.at(path, TIME, move || write_text(&marked, text)).await;
    let cause = match written {
        Ok(Ok(())) => return true,
        Ok(Err(cause)) => format!("{cause}: {}", cause.io()),
        Err(cause) => cause.to_string(),
    };
    error!(mark = %path.display(), error = cause, "this host holds only until start-worker ends: the marker cannot be written");
    false
}

fn write(path: &Path) -> Result<(), WriteError> {
    write_text(path, "drained by an operator; `start-worker resume` lets the worker start again\n")
}

fn write_text(path: &Path, text: &str) -> Result<(), WriteError> {
    atomic::replace(path, text.as_bytes(), Attributes { mode: 0o600, owner: None }, 0o700)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_is_preferred_to_the_cache() {
        let (state, cache) = (Path::new("/var/lib/start-worker"), Path::new("/etc/cache.json"));
        assert_eq!(place(Some(state), Some(cache)), Some("/var/lib/start-worker/held".into()));
        assert_eq!(place(None, Some(cache)), Some("/etc/cache.json.held".into()));
        assert_eq!(place(None, None), None);
    }

    #[tokio::test]
    async fn the_mark_is_there_from_marking_to_unmarking() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("held");
        let lane = Lane::default();
        mark(Some(&path), &lane).await;
        assert!(is_marked(&path, &lane).await.unwrap().unwrap());
        unmark(&path, &lane).await.unwrap().unwrap();
        assert!(!is_marked(&path, &lane).await.unwrap().unwrap());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_link_in_the_marks_place_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("held"), folder.path().join("victim"));
        std::fs::write(&victim, "untouched").unwrap();
        for victim_there in [true, false] {
            std::os::unix::fs::symlink(&victim, &path).unwrap();
            mark(Some(&path), &Lane::default()).await;
            assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
            assert!(is_marked(&path, &Lane::default()).await.unwrap().unwrap());
            assert_eq!(std::fs::read(&victim).ok(), victim_there.then(|| b"untouched".to_vec()));
            unmark(&path, &Lane::default()).await.unwrap().unwrap();
            let _ = std::fs::remove_file(&victim);
        }
    }

    #[tokio::test]
    async fn only_a_file_of_root_or_of_our_own_is_a_mark() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("held");
        assert!(!is_marked(&path, &Lane::default()).await.unwrap().unwrap());
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        let error = is_marked(&path, &Lane::default()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), private_file::ErrorKind::Permissions);
        std::fs::remove_file(&path).unwrap();
        mark(Some(&path), &Lane::default()).await;
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            let error = is_marked(&path, &Lane::default()).await.unwrap().unwrap_err();
            assert_eq!(error.kind(), private_file::ErrorKind::Permissions);
            assert!(error.to_string().contains(&format!("`chown root {}`", path.display())), "{error}");
        }
    }
}
