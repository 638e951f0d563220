//! The mark that keeps a worker from being started: an operator drained this host, and its worker's own reboot followed.

use std::io::Write;
use std::path::{Path, PathBuf};

use tracing::{error, info, warn};

use super::atomic::{self, WriteError};

/// The mark's name, in the state directory or after the cache's own name.
const NAME: &str = "held";

/// Where the mark goes: in the state directory, else beside the cache; `None`: there is neither.
pub fn place(state_directory: Option<&Path>, cache: Option<&Path>) -> Option<PathBuf> {
    if let Some(folder) = state_directory {
        return Some(folder.join(NAME));
    }
    let cache = cache?;
    let mut name = cache.file_name()?.to_owned();
    name.push(format!(".{NAME}"));
    Some(cache.with_file_name(name))
}

/// Leaves the mark. Where that fails, the log says what will happen after the boot.
pub fn mark(place: Option<&Path>) {
    let Some(path) = place else {
        warn!(
            "drained, and the worker reboots the host: it will start again after the boot, for there is no state directory (and no cacheOverRestarts) to note the drain in"
        );
        return;
    };
    match write(path) {
        Ok(()) => info!(
            mark = %path.display(),
            "drained, and the worker reboots the host: no worker is started after the boot until `start-worker resume`"
        ),
        Err(cause) => error!(
            mark = %path.display(), error = %cause,
            "cannot note the drain: the worker will start again after the boot"
        ),
    }
}

/// Removes the mark. When this returns without an error, it is gone from the disk.
///
/// # Errors
///
/// It cannot be removed.
pub fn unmark(path: &Path) -> Result<(), WriteError> {
    atomic::remove(path)
}

fn write(path: &Path) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(b"drained by an operator; `start-worker resume` lets the worker start again\n")?;
    file.sync_all()?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
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

    #[test]
    fn the_mark_is_there_from_marking_to_unmarking() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("held");
        mark(Some(&path));
        assert!(path.exists());
        unmark(&path).unwrap();
        assert!(!path.exists());
    }
}
