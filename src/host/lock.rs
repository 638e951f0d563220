//! One runner per worker: two would start two workers under one name, and invalidate each other's one-time secrets.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

/// The lock, held until it is dropped or the runner dies in any way.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Why there is no lock.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another runner has it.
    #[error("another start-worker{holder} already runs this worker: it holds {path}; stop it first", path = .path.display())]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// ` (pid 4711)`, or nothing where that is unknown.
        holder: String,
    },
    /// It cannot be made.
    #[error("cannot make the lock {path}: {cause}", path = .path.display())]
    Unavailable {
        /// The lock's file.
        path: PathBuf,
        /// What the operating system says.
        cause: io::Error,
    },
}

impl Lock {
    /// Takes the lock of the worker `name` in the runtime directory, which is made (0700) where it is missing. Never
    /// waits.
    pub fn take(runtime_directory: &Path, name: &str) -> Result<Self, LockError> {
        let path = runtime_directory.join(format!("{}.lock", file_name(name)));
        let unavailable = |cause: io::Error| LockError::Unavailable { path: path.clone(), cause };
        if !runtime_directory.is_dir() {
            std::fs::create_dir_all(runtime_directory).map_err(unavailable)?;
            std::fs::set_permissions(runtime_directory, Permissions::from_mode(0o700))
                .map_err(unavailable)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .map_err(unavailable)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // The pid is for people; the lock holds without it.
                let _ = note_pid(&mut file);
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let holder = pid.trim().parse::<u32>().map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                Err(LockError::Held { path: path.clone(), holder })
            }
            Err((_, errno)) => Err(unavailable(errno.into())),
        }
    }
}

fn note_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// A file name for any worker's name: what is not a letter, digit, `.`, `-` or `_` becomes `%XX`, so that two names
/// never share a file. A name that would be too long is cut, and told apart by its hash.
fn file_name(name: &str) -> String {
    use std::fmt::Write;
    use std::hash::{DefaultHasher, Hash, Hasher};
    const LONGEST: usize = 200;
    let mut safe = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_".contains(&byte) {
            safe.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(safe, "%{byte:02X}");
        }
    }
    if safe.len() > LONGEST {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        safe.truncate(LONGEST);
        let _ = write!(safe, "-{:016x}", hasher.finish());
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_on_the_same_worker_names_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let held = Lock::take(folder.path(), "pp/ww wg wi").unwrap();
        let error = Lock::take(folder.path(), "pp/ww wg wi").unwrap_err().to_string();
        let expected = format!("another start-worker (pid {}) already runs this worker", std::process::id());
        assert!(error.starts_with(&expected), "{error}");
        drop(held);
        Lock::take(folder.path(), "pp/ww wg wi").unwrap();
    }

    #[test]
    fn different_workers_do_not_share_a_lock() {
        let folder = tempfile::tempdir().unwrap();
        let _one = Lock::take(folder.path(), "pp/ww wg a/b").unwrap();
        Lock::take(folder.path(), "pp/ww wg a%2Fb").unwrap();
    }

    #[test]
    fn the_folder_is_made_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("start-worker");
        let _lock = Lock::take(&inner, "x").unwrap();
        assert_eq!(std::fs::metadata(inner).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_very_long_name_still_makes_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = ("x".repeat(500) + "1", "x".repeat(500) + "2");
        let _one = Lock::take(folder.path(), &one).unwrap();
        Lock::take(folder.path(), &two).unwrap();
    }
}
