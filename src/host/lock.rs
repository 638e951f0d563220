//! The lock that allows one runner per worker: two runners would start two workers under one name, and invalidate each
//! other's one-time secrets.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;
use tracing::warn;

use super::atomic::{Directory, parent_of};
use super::trust;

/// The lock, held until it is dropped or the runner dies in any way.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// The reason for a missing lock.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another runner holds the lock.
    #[error("another start-worker{holder} already runs this worker: it holds {path}; stop it first", path = .path.display())]
    Held {
        path: PathBuf,
        /// ` (pid 4711)`, or empty if the holder is unknown.
        holder: String,
    },
    /// Another runner uses the same cache.
    #[error("another start-worker{holder} keeps its run in {cache}: stop one of the two or, where they run different workers, give each its own cacheOverRestarts", cache = .cache.display())]
    CacheHeld {
        cache: PathBuf,
        /// ` (pid 4711)`, or empty if the holder is unknown.
        holder: String,
    },
    /// The lock file cannot be created.
    #[error("cannot make the lock {path}: {cause}", path = .path.display())]
    Unavailable { path: PathBuf, cause: io::Error },
}

/// The number of attempts to replace a file that occupies the lock's path and is not a lock of ours.
const TRIES: usize = 5;

impl Lock {
    /// Takes the lock of the worker `name` in the runtime directory, which is created (0700) if it is missing. Never
    /// waits.
    ///
    /// Only a file that root or this process's user created, and that nobody else can open, counts as a lock, because
    /// anybody who can open a file can hold its lock. Anything else at its path is removed, and a link is never
    /// followed.
    pub fn take(runtime_directory: &Path, name: &str) -> Result<Self, LockError> {
        let path = runtime_directory.join(format!("{}.lock", file_name(name)));
        let unavailable = |cause: io::Error| LockError::Unavailable { path: path.clone(), cause };
        if !runtime_directory.is_dir() {
            std::fs::create_dir_all(runtime_directory).map_err(unavailable)?;
            std::fs::set_permissions(runtime_directory, Permissions::from_mode(0o700))
                .map_err(unavailable)?;
        }
        Self::take_file(&path)
    }

    /// Takes the lock of the cache at `cache`, a file beside it: two runners would overwrite each other's registration.
    /// The directory is created (0700) if it is missing.
    pub fn take_for_cache(cache: &Path) -> Result<Self, LockError> {
        let mut name = cache.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        let path = cache.with_file_name(name);
        if let Err(cause) = Directory::create(parent_of(cache), 0o700) {
            return Err(LockError::Unavailable { path, cause: io::Error::other(cause) });
        }
        Self::take_file(&path).map_err(|cause| match cause {
            LockError::Held { holder, .. } => LockError::CacheHeld { cache: cache.to_owned(), holder },
            other => other,
        })
    }

    fn take_file(path: &Path) -> Result<Self, LockError> {
        let unavailable = |cause: io::Error| LockError::Unavailable { path: path.to_owned(), cause };
        for _ in 0..TRIES {
            let file = match open(path) {
                Ok(file) if is_private(&file).map_err(unavailable)? => file,
                Err(cause) if !is_something_else(&cause) || path.symlink_metadata().is_err() => {
                    return Err(unavailable(cause));
                }
                Ok(_) | Err(_) => {
                    warn!(
                        lock = %path.display(),
                        "what is in the lock's place is not start-worker's, or others can open it: it is replaced"
                    );
                    std::fs::remove_file(path).map_err(unavailable)?;
                    continue;
                }
            };
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // Another start-worker may have removed the file before it was locked.
                Ok(file) if !is_at(&file, path) => {}
                Ok(mut file) => {
                    // The pid only informs people; the lock holds without it.
                    let _ = note_pid(&mut file);
                    return Ok(Self { _file: file });
                }
                Err((mut file, Errno::EWOULDBLOCK)) => {
                    let mut pid = String::new();
                    let _ = file.read_to_string(&mut pid);
                    let holder =
                        pid.trim().parse::<u32>().map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                    return Err(LockError::Held { path: path.to_owned(), holder });
                }
                Err((_, errno)) => return Err(unavailable(errno.into())),
            }
        }
        Err(unavailable(io::Error::other("others put files in its place again and again")))
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Returns true if opening failed because the path holds something that start-worker does not create: a link, another
/// user's file, a socket. (EACCES can also come from `fs.protected_regular`, see `sysctl/fs`.)
fn is_something_else(cause: &io::Error) -> bool {
    matches!(
        cause.raw_os_error(),
        Some(libc::ELOOP | libc::EACCES | libc::EPERM | libc::ENXIO | libc::EOPNOTSUPP)
    )
}

/// Returns true for a file with a single name that only its owner can open, if the owner is root or this process's
/// user.
fn is_private(file: &File) -> io::Result<bool> {
    let found = file.metadata()?;
    let by_others = found.mode() & 0o077 != 0;
    Ok(found.is_file() && trust::is_trusted(found.uid()) && !by_others && found.nlink() == 1)
}

fn is_at(file: &File, path: &Path) -> bool {
    let here = std::fs::symlink_metadata(path);
    let place = |found: &std::fs::Metadata| (found.dev(), found.ino());
    here.is_ok_and(|here| file.metadata().is_ok_and(|open| place(&open) == place(&here)))
}

fn note_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// Converts any worker's name to a file name. Every byte that is not a letter, digit, `.`, `-` or `_` becomes `%XX`, so
/// that two names never share a file. A name that would be too long is truncated and made unique by its hash.
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
    fn a_second_lock_on_the_same_cache_names_the_holder_and_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("made/here/run.json");
        let held = Lock::take_for_cache(&cache).unwrap();
        let error = Lock::take_for_cache(&cache).unwrap_err().to_string();
        let expected =
            format!("another start-worker (pid {}) keeps its run in {}", std::process::id(), cache.display());
        assert!(error.starts_with(&expected), "{error}");
        let _other = Lock::take_for_cache(&cache.with_file_name("other.json")).unwrap();
        drop(held);
        Lock::take_for_cache(&cache).unwrap();
        for made in ["made", "made/here"] {
            assert_eq!(std::fs::metadata(folder.path().join(made)).unwrap().mode() & 0o777, 0o700);
        }
    }

    fn lock_path(folder: &Path) -> PathBuf {
        let held = Lock::take(folder, "worker").unwrap();
        drop(held);
        let path = folder.join("worker.lock");
        assert!(path.is_file());
        path
    }

    /// Takes the lock, and checks that the file at its path is a valid lock.
    fn taken(folder: &Path) -> Lock {
        let lock = Lock::take(folder, "worker").unwrap();
        let found = std::fs::symlink_metadata(folder.join("worker.lock")).unwrap();
        assert!(found.is_file() && found.uid() == trust::our_uid());
        assert_eq!((found.mode() & 0o777, found.nlink()), (0o600, 1));
        assert!(matches!(Lock::take(folder, "worker"), Err(LockError::Held { .. })));
        lock
    }

    #[test]
    fn a_lock_that_another_user_made_and_holds_does_not_count() {
        if trust::our_uid() != 0 {
            return; // only root can give files away
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        let path = lock_path(folder.path());
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        let squatter = Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        let _lock = taken(folder.path());
        drop(squatter);
    }

    #[test]
    fn a_lock_that_others_could_open_and_hold_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = lock_path(folder.path());
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let squatter = Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        let _lock = taken(folder.path());
        drop(squatter);
    }

    type Link = fn(&Path, &Path) -> io::Result<()>;

    #[test]
    fn a_link_in_the_locks_place_is_replaced_and_what_it_leads_to_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = lock_path(folder.path());
        let victim = folder.path().join("victim");
        let links: [Link; 2] =
            [|to, at| std::os::unix::fs::symlink(to, at), |to, at| std::fs::hard_link(to, at)];
        for link in links {
            std::fs::write(&victim, "untouched").unwrap();
            std::fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
            std::fs::remove_file(&path).unwrap();
            link(&victim, &path).unwrap();
            drop(taken(folder.path()));
            assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
        }
    }

    #[test]
    fn a_pipe_or_a_socket_in_the_locks_place_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = lock_path(folder.path());
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
        drop(taken(folder.path()));
        std::fs::remove_file(&path).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(taken(folder.path()));
    }

    #[test]
    fn what_cannot_be_removed_from_the_locks_place_is_said() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("worker.lock")).unwrap();
        let error = Lock::take(folder.path(), "worker").unwrap_err();
        assert!(matches!(error, LockError::Unavailable { .. }), "{error}");
    }

    #[test]
    fn a_very_long_name_still_makes_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = ("x".repeat(500) + "1", "x".repeat(500) + "2");
        let _one = Lock::take(folder.path(), &one).unwrap();
        Lock::take(folder.path(), &two).unwrap();
    }
}
