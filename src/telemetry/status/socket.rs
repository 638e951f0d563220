//! Binds the socket: private from the first moment; replaces a dead runner's socket, but never a live one's.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, fchmod};
use thiserror::Error;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tracing::debug;

use crate::host::atomic::parent_of;
use crate::host::trust::{self, Exposed};

/// Maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// The number of attempts to lock the folder while another runner checks the same path.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The reason for a missing socket.
#[derive(Debug, Error)]
pub(super) enum BindError {
    #[error("its folder cannot be made: {0}")]
    Folder(io::Error),
    #[error("{0}, so nobody could tell whether start-worker is what answers there; `{fix}`, or choose another directory", fix = .0.fix)]
    Exposed(Exposed),
    #[error("another program, probably another start-worker, listens there")]
    InUse,
    #[error("what is there is no socket, and is left alone")]
    NoSocket,
    #[error("what is there cannot be replaced: {0}")]
    Replace(io::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The socket's file. Dropping this removes the file, unless it belongs to another runner by then.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours && let Err(cause) = std::fs::remove_file(&self.path) {
            debug!(path = %self.path.display(), error = %cause, "cannot remove the status socket");
        }
    }
}

/// Listens at `path` with mode 0600. Its folder is created with mode 0700 if it is missing, and refused if others can
/// write to it, because they could remove the socket and listen in its place.
pub(super) async fn bind(path: &Path) -> Result<(UnixListener, Place), BindError> {
    let folder = parent_of(path);
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(BindError::Folder)?;
    if let Some(exposed) = trust::exposed(folder) {
        return Err(BindError::Exposed(exposed));
    }
    // Two runners that find the same dead socket must not remove each other's.
    let _lock = lock(folder).await;
    remove_dead(path).await?;
    let socket = UnixSocket::new_stream()?;
    // Linux creates the file with the socket's mode; other systems are handled below. Nobody can connect before
    // listen().
    let _ = fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR);
    socket.bind(path)?;
    let mut found = std::fs::symlink_metadata(path)?;
    if found.mode() & 0o777 != 0o600 {
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        found = std::fs::symlink_metadata(path)?;
    }
    let place = Place { path: path.to_owned(), device: found.dev(), inode: found.ino() };
    Ok((socket.listen(BACKLOG)?, place))
}

/// Locks the folder. Without a lock the runner continues, because the lock only matters to runners that start at the
/// same moment.
async fn lock(folder: &Path) -> Option<Flock<File>> {
    let mut folder = File::open(folder).ok()?;
    for _ in 0..LOCK_TRIES {
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err((file, _)) => folder = file,
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    None
}

/// Removes a socket on which nobody listens. Anything else is kept, including a symlink.
async fn remove_dead(path: &Path) -> Result<(), BindError> {
    match std::fs::symlink_metadata(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(BindError::Replace(cause)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NoSocket),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(BindError::Replace)
        }
        // If its backlog is full, another program listens, too.
        Ok(_) => Err(BindError::InUse),
        Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => Err(BindError::InUse),
        Err(cause) => Err(BindError::Replace(cause)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn the_socket_and_its_folders_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/status.sock");
        let (_listener, place) = bind(&path).await.unwrap();
        let modes = [&path, &folder.path().join("a/b"), &folder.path().join("a")].map(|path| mode(path));
        assert_eq!(modes, [0o600, 0o700, 0o700]);
        drop(place);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn no_socket_is_opened_where_others_could_listen_in_its_place() {
        for mode in [0o777, 0o1777, 0o770, 0o775] {
            let folder = tempfile::tempdir().unwrap();
            let exposed = folder.path().join("shared");
            std::fs::create_dir(&exposed).unwrap();
            std::fs::set_permissions(&exposed, Permissions::from_mode(mode)).unwrap();
            let error = bind(&exposed.join("status.sock")).await.unwrap_err();
            assert!(matches!(error, BindError::Exposed(_)), "{mode:o}: {error}");
            assert!(error.to_string().contains(&format!("`chmod go-w {}`", exposed.display())), "{error}");
            assert!(!exposed.join("status.sock").exists());
        }
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (listener, _place) = bind(&path).await.unwrap();
        assert!(matches!(bind(&path).await, Err(BindError::InUse)));
        UnixStream::connect(&path).await.unwrap();
        drop(listener);
    }

    #[tokio::test]
    async fn a_live_socket_with_a_full_backlog_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.sock");
        let socket = UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let _listener = socket.listen(1).unwrap();
        let mut clients = Vec::new();
        while let Ok(client) = UnixStream::connect(&path).await {
            clients.push(client);
        }
        assert!(matches!(bind(&path).await, Err(BindError::InUse)));
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "text").unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(at("dead")).unwrap());
        symlink("dead", at("link")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        for name in ["file", "folder", "link", "dangling"] {
            assert!(matches!(bind(&at(name)).await, Err(BindError::NoSocket)), "{name}");
        }
        assert_eq!(std::fs::read(at("file")).unwrap(), b"text");
        assert!(at("dead").symlink_metadata().is_ok() && !at("nowhere").exists());
    }

    #[tokio::test]
    async fn a_socket_that_has_become_anothers_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.sock");
        let (_listener, place) = bind(&path).await.unwrap();
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        let (_second, _theirs) = bind(&path).await.unwrap();
        drop(place);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn runners_that_start_at_once_do_not_remove_each_others_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.sock");
        for _ in 0..20 {
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let (one, two) = tokio::join!(bind(&path), bind(&path));
            assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
            UnixStream::connect(&path).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = bind(&folder.path().join("x".repeat(120))).await.unwrap_err().to_string();
        assert!(error.contains("path must be shorter than SUN_LEN"), "{error}");
    }
}
