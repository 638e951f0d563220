//! Reads files that may hold secrets, without being led astray by links, pipes or loose permissions.
//!
//! The file is opened without following a symbolic link and without blocking, and everything else is asked of, and
//! done to, the open descriptor: what was checked is what is read.

use std::fmt;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The permission bits that let anyone but the owner in.
const GROUP_AND_OTHERS: u32 = 0o077;
const OWNER_READ: u32 = 0o400;
const PRIVATE: u32 = 0o600;

/// What to do about permissions that let others in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Take them away and warn; an error where the file is another user's. For starting.
    Tighten,
    /// Warn and change nothing. For looking.
    Observe,
    /// An error. For files that only the runner itself writes.
    Refuse,
}

/// What was read.
pub struct Contents {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// What the operator should know about the file's permissions.
    pub warning: Option<Warning>,
}

/// The bytes may be secret: only their number is shown.
impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").field("bytes", &self.bytes.len()).field("warning", &self.warning).finish()
    }
}

/// Permissions that were, or are, wrong without keeping the file from being read. Names no file: whoever shows it
/// does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// Others could get at it, and cannot any longer.
    Tightened {
        /// The mode that it had.
        mode: u32,
    },
    /// Others can get at it, and nothing was done about it.
    Loose {
        /// The mode that it has.
        mode: u32,
        /// Whether it belongs to us, so that a start would tighten it.
        ours: bool,
    },
    /// Its owner may not read it: a start would refuse it.
    NoOwnerRead {
        /// The mode that it has.
        mode: u32,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tightened { mode } => write!(
                f,
                "mode was {mode:04o}, others had access: it is 0600 now; rotate the secrets that are in it"
            ),
            Self::Loose { mode, ours: true } => write!(
                f,
                "mode is {mode:04o}, others have access: chmod it 0600 and rotate the secrets that are in it"
            ),
            Self::Loose { mode, ours: false } => write!(
                f,
                "mode is {mode:04o}, others have access, and it belongs to another user: a start refuses it; \
                 chmod it 0600 and rotate the secrets that are in it"
            ),
            Self::NoOwnerRead { mode } => {
                write!(f, "mode is {mode:04o}, its owner may not read it: a start refuses it; chmod it 0600")
            }
        }
    }
}

/// Why a file was not read. Each names the file and says what to do.
#[derive(Debug, Error)]
#[error("{}: {problem}", .path.display())]
pub struct Error {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, Error)]
enum Problem {
    #[error("no such file; create it, or give the right path")]
    Missing,
    #[error("cannot be read: {0}")]
    Io(io::Error),
    #[error("larger than {0} bytes; give the right path")]
    TooLarge(u64),
    #[error("may not be opened: {0}; run as its owner, or chmod it 0600 and chown it to whoever runs this")]
    Denied(io::Error),
    #[error("expected a regular file, found {0}; put a regular file there")]
    Kind(&'static str),
    #[error("mode is {0:04o}, its owner may not read it; chmod it 0600")]
    NoOwnerRead(u32),
    #[error(
        "mode is {0:04o}, others have access, and it belongs to another user (uid {1}); \
         chmod it 0600 and rotate the secrets that are in it"
    )]
    NotOurs(u32, u32),
    #[error("mode is {0:04o}, others have access; chmod it 0600 and rotate the secrets that are in it")]
    Loose(u32),
    #[error("mode is {0:04o}, others have access, and that cannot be changed: {1}; make it 0600")]
    CannotTighten(u32, io::Error),
}

/// Which sort of failure an [`struct@Error`] is, for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// It is not there.
    Missing,
    /// It is there and could not be read, for no fault of its permissions.
    Unreadable,
    /// Its permissions, owner or kind.
    Permissions,
}

impl Error {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with it, and what to do, without its name.
    pub fn problem(&self) -> String {
        self.problem.to_string()
    }

    /// Which sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match self.problem {
            Problem::Missing => ErrorKind::Missing,
            Problem::Io(_) | Problem::TooLarge(_) => ErrorKind::Unreadable,
            Problem::Denied(_)
            | Problem::Kind(_)
            | Problem::NoOwnerRead(_)
            | Problem::NotOurs(..)
            | Problem::Loose(_)
            | Problem::CannotTighten(..) => ErrorKind::Permissions,
        }
    }
}

/// Reads the whole of `path`, at most `limit` bytes.
pub fn read(path: &Path, access: Access, limit: u64) -> Result<Contents, Error> {
    read_checked(path, access, limit).map_err(|problem| Error { path: path.to_owned(), problem })
}

fn read_checked(path: &Path, access: Access, limit: u64) -> Result<Contents, Problem> {
    let file = open(path)?;
    let warning = check(&file, access)?;
    let mut bytes = Vec::new();
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(Problem::Io)?;
    if u64::try_from(read).is_ok_and(|read| read <= limit) {
        Ok(Contents { bytes, warning })
    } else {
        Err(Problem::TooLarge(limit))
    }
}

fn open(path: &Path) -> Result<File, Problem> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
        match error.raw_os_error() {
            // FreeBSD says EMLINK for a link that O_NOFOLLOW meets.
            Some(libc::ELOOP | libc::EMLINK) => Problem::Kind("a symbolic link"),
            Some(libc::ENXIO | libc::ENODEV | libc::EOPNOTSUPP) => Problem::Kind("a socket or a device"),
            Some(libc::ENOENT | libc::ENOTDIR) => Problem::Missing,
            Some(libc::EACCES | libc::EPERM) => Problem::Denied(error),
            _ => Problem::Io(error),
        }
    })
}

fn check(file: &File, access: Access) -> Result<Option<Warning>, Problem> {
    let metadata = file.metadata().map_err(Problem::Io)?;
    if !metadata.is_file() {
        return Err(Problem::Kind(kind_in_words(metadata.file_type())));
    }
    let mode = metadata.mode() & 0o7777;
    // Root is let in by open() whatever the mode says.
    if mode & OWNER_READ == 0 {
        return match access {
            Access::Observe => Ok(Some(Warning::NoOwnerRead { mode })),
            Access::Tighten | Access::Refuse => Err(Problem::NoOwnerRead(mode)),
        };
    }
    if mode & GROUP_AND_OTHERS == 0 {
        return Ok(None);
    }
    let ours = metadata.uid() == nix::unistd::geteuid().as_raw();
    match access {
        Access::Observe => Ok(Some(Warning::Loose { mode, ours })),
        Access::Refuse => Err(Problem::Loose(mode)),
        Access::Tighten if !ours => Err(Problem::NotOurs(mode, metadata.uid())),
        Access::Tighten => file
            .set_permissions(Permissions::from_mode(PRIVATE))
            .map(|()| Some(Warning::Tightened { mode }))
            .map_err(|error| Problem::CannotTighten(mode, error)),
    }
}

fn kind_in_words(kind: std::fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "something else"
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use tempfile::TempDir;

    use super::*;

    const LIMIT: u64 = 100;

    fn file(mode: u32) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "secret").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    /// The error without the folder, which is another each time.
    fn refused(path: &Path, access: Access) -> (ErrorKind, String) {
        let error = read(path, access, LIMIT).unwrap_err();
        (error.kind(), error.to_string().replace(path.parent().unwrap().to_str().unwrap(), "/etc"))
    }

    #[test]
    fn private_modes_are_left_alone() {
        for mode in [0o400, 0o500, 0o600, 0o700] {
            let (_folder, path) = file(mode);
            for access in [Access::Tighten, Access::Observe, Access::Refuse] {
                let contents = read(&path, access, LIMIT).unwrap();
                assert_eq!(contents.bytes, b"secret");
                assert_eq!(contents.warning, None);
            }
            assert_eq!(mode_of(&path), mode);
        }
    }

    #[test]
    fn access_of_others_is_taken_away_with_a_warning() {
        for mode in [0o640, 0o604, 0o602, 0o601, 0o777, 0o444] {
            let (_folder, path) = file(mode);
            let contents = read(&path, Access::Tighten, LIMIT).unwrap();
            assert_eq!(contents.warning, Some(Warning::Tightened { mode }));
            assert_eq!(contents.bytes, b"secret");
            assert_eq!(mode_of(&path), 0o600);
        }
    }

    #[test]
    fn looking_changes_nothing() {
        let (_folder, path) = file(0o644);
        let contents = read(&path, Access::Observe, LIMIT).unwrap();
        assert_eq!(contents.warning, Some(Warning::Loose { mode: 0o644, ours: true }));
        assert_eq!(mode_of(&path), 0o644);
    }

    #[test]
    fn access_of_others_is_refused_where_it_must_not_have_been() {
        let (_folder, path) = file(0o640);
        let (kind, text) = refused(&path, Access::Refuse);
        assert_eq!(kind, ErrorKind::Permissions);
        insta::assert_snapshot!(text, @"/etc/file: mode is 0640, others have access; chmod it 0600 and rotate the secrets that are in it");
        assert_eq!(mode_of(&path), 0o640);
    }

    #[test]
    fn a_file_that_its_owner_may_not_read_is_refused() {
        let (_folder, path) = file(0o266);
        for access in [Access::Tighten, Access::Refuse] {
            let (kind, text) = refused(&path, access);
            assert_eq!(kind, ErrorKind::Permissions);
            // Root gets as far as the mode; others are stopped by open() itself.
            assert!(text.starts_with("/etc/file: "), "{text}");
        }
        assert_eq!(mode_of(&path), 0o266);
    }

    #[test]
    fn another_users_file_is_not_tightened() {
        if !nix::unistd::geteuid().is_root() {
            return; // only root can give files away
        }
        let (_folder, path) = file(0o644);
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        let (kind, text) = refused(&path, Access::Tighten);
        assert_eq!(kind, ErrorKind::Permissions);
        insta::assert_snapshot!(text, @"/etc/file: mode is 0644, others have access, and it belongs to another user (uid 12345); chmod it 0600 and rotate the secrets that are in it");
        assert_eq!(mode_of(&path), 0o644);
        let contents = read(&path, Access::Observe, LIMIT).unwrap();
        assert_eq!(contents.warning, Some(Warning::Loose { mode: 0o644, ours: false }));

        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read(&path, Access::Tighten, LIMIT).unwrap().warning, None);
    }

    #[test]
    fn only_regular_files_are_read() {
        let (folder, path) = file(0o600);
        let at = |name: &str| folder.path().join(name);
        symlink(&path, at("link")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        let texts = ["link", "dangling", "pipe", "socket", "folder"].map(|name| {
            let (kind, text) = refused(&at(name), Access::Observe);
            assert_eq!(kind, ErrorKind::Permissions, "{name}");
            text
        });
        insta::assert_snapshot!(texts.join("\n"), @"
    /etc/link: expected a regular file, found a symbolic link; put a regular file there
    /etc/dangling: expected a regular file, found a symbolic link; put a regular file there
    /etc/pipe: expected a regular file, found a named pipe; put a regular file there
    /etc/socket: expected a regular file, found a socket or a device; put a regular file there
    /etc/folder: expected a regular file, found a directory; put a regular file there
    ");
        let error = read(Path::new("/dev/null"), Access::Observe, LIMIT).unwrap_err();
        insta::assert_snapshot!(error, @"/dev/null: expected a regular file, found a device; put a regular file there");
    }

    #[test]
    fn what_is_not_there_or_too_large_is_not_a_matter_of_permissions() {
        let (folder, path) = file(0o600);
        let (kind, text) = refused(&folder.path().join("other"), Access::Tighten);
        assert_eq!(kind, ErrorKind::Missing);
        insta::assert_snapshot!(text, @"/etc/other: no such file; create it, or give the right path");
        assert_eq!(read(&path, Access::Tighten, 6).unwrap().bytes, b"secret");
        let error = read(&path, Access::Tighten, 5).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreadable);
    }

    #[test]
    fn what_was_read_is_not_shown() {
        let (_folder, path) = file(0o600);
        let contents = read(&path, Access::Tighten, LIMIT).unwrap();
        assert!(!format!("{contents:?}").contains("secret"));
    }

    #[test]
    fn warnings_say_what_to_do() {
        let warnings = [
            Warning::Tightened { mode: 0o644 },
            Warning::Loose { mode: 0o644, ours: true },
            Warning::Loose { mode: 0o644, ours: false },
            Warning::NoOwnerRead { mode: 0o200 },
        ];
        insta::assert_snapshot!(warnings.map(|warning| warning.to_string()).join("\n"), @"
    mode was 0644, others had access: it is 0600 now; rotate the secrets that are in it
    mode is 0644, others have access: chmod it 0600 and rotate the secrets that are in it
    mode is 0644, others have access, and it belongs to another user: a start refuses it; chmod it 0600 and rotate the secrets that are in it
    mode is 0200, its owner may not read it: a start refuses it; chmod it 0600
    ");
    }
}
