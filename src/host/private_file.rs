//! Reads files that may hold secrets, and is not misled by links, pipes, loose permissions or other users.
//!
//! The file is opened without following a symbolic link and without blocking. Every check and change is made on the
//! open descriptor, so that the checked file is the one that is read. The file must belong to root or to the runner's
//! own user, because a user who can change it controls the runner.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use thiserror::Error;

use super::atomic::parent_of;
use super::trust::{self, Exposed, chown, shell_word};

/// The permission bits of everyone but the owner.
const GROUP_AND_OTHERS: u32 = 0o077;
const OWNER_READ: u32 = 0o400;
const PRIVATE: u32 = 0o600;

/// The reaction to permissions that let others in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Remove the permissions and warn. For starts.
    Tighten,
    /// Warn and change nothing, also about another user's file. For inspection.
    Observe,
    /// Fail. For files that only the runner itself writes.
    Refuse,
}

pub struct Contents {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// Warnings about the permissions of the file and of its parent directories.
    pub warnings: Vec<Warning>,
}

/// Shows only the number of bytes, because they may be secret.
impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents")
            .field("bytes", &self.bytes.len())
            .field("warnings", &self.warnings)
            .finish()
    }
}

/// Wrong permissions, past or present, that did not prevent the file from being read. The text gives the command that
/// helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// Others had access until the permissions were removed.
    Tightened {
        /// The previous mode.
        mode: u32,
    },
    /// Others have access, and nothing was changed. A start removes the permissions if the file belongs to the runner's
    /// user.
    Loose { mode: u32 },
    /// The file belongs to another user than this process's, and a start as this user would refuse it.
    NotOurs {
        path: PathBuf,
        mode: u32,
        /// The owner.
        uid: u32,
    },
    /// The owner has no read permission: a start would refuse the file.
    NoOwnerRead { path: PathBuf, mode: u32 },
    /// Others can replace the file.
    Exchangeable(Exposed),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tightened { mode } => write!(
                f,
                "mode was {mode:04o}, others had access: it is 0600 now; rotate the secrets that are in it"
            ),
            Self::Loose { mode } => write!(
                f,
                "mode is {mode:04o}, others have access: chmod it 0600 and rotate the secrets that are in it"
            ),
            Self::NotOurs { path, mode, uid } => {
                let (owner, us) = (user(*uid), user(trust::our_uid()));
                write!(
                    f,
                    "it belongs to {owner}: a start by {us} refuses it; unless {owner} starts start-worker, `{}`{}",
                    own(path, *mode),
                    rotate(*mode)
                )
            }
            Self::NoOwnerRead { path, mode } => {
                write!(
                    f,
                    "mode is {mode:04o}, its owner may not read it: a start refuses it; `{}`",
                    chmod(path)
                )
            }
            Self::Exchangeable(exposed) => {
                write!(f, "{exposed} and could exchange this file; `{}`", exposed.fix)
            }
        }
    }
}

/// The reason why a file was not read. Each text names the file and gives the command that helps.
#[derive(Debug, Error)]
#[error("{}: {problem}", .path.display())]
pub struct Error {
    path: PathBuf,
    problem: Box<Problem>,
}

#[derive(Debug, Error)]
enum Problem {
    #[error("no such file; create it, or give the right path")]
    Missing,
    #[error("cannot be read: {0}")]
    Io(io::Error),
    #[error("larger than {0} bytes; give the right path")]
    TooLarge(u64),
    #[error("may not be opened: {cause}; {help}")]
    Denied { cause: io::Error, help: String },
    #[error("expected a regular file, found {0}; put a regular file there")]
    Kind(&'static str),
    #[error("mode is {mode:04o}, its owner may not read it; `{help}`")]
    NoOwnerRead { mode: u32, help: String },
    #[error("it belongs to {owner}, who could change what start-worker does; `{help}`{rotate}")]
    Foreign { owner: String, help: String, rotate: &'static str },
    #[error("mode is {mode:04o}, others have access, and it belongs to {owner}; `{help}`{rotate}")]
    LooseOfRoot { mode: u32, owner: String, help: String, rotate: &'static str },
    #[error("mode is {mode:04o}, others have access; chmod it 0600 and rotate the secrets that are in it")]
    Loose { mode: u32 },
    #[error("mode is {mode:04o}, others have access, and that cannot be changed: {cause}; {help}")]
    CannotTighten { mode: u32, cause: io::Error, help: String },
}

/// Formats a user: `root`, `uid 1000`.
fn user(uid: u32) -> String {
    if uid == 0 { "root".to_owned() } else { format!("uid {uid}") }
}

fn chmod(path: &Path) -> String {
    format!("chmod 0600 {}", shell_word(path))
}

/// The command that gives a file to this process's user, and to nobody else.
fn own(path: &Path, mode: u32) -> String {
    if mode & GROUP_AND_OTHERS == 0 && mode & OWNER_READ != 0 {
        chown(path)
    } else {
        format!("{} && {}", chown(path), chmod(path))
    }
}

fn rotate(mode: u32) -> &'static str {
    if mode & GROUP_AND_OTHERS == 0 { "" } else { " and rotate the secrets that are in it" }
}

/// The kind of an [`struct@Error`], for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The file does not exist.
    Missing,
    /// The file exists and could not be read, for a reason other than its permissions.
    Unreadable,
    /// The file has the wrong permissions, owner or type.
    Permissions,
}

impl Error {
    fn new(path: &Path, problem: Problem) -> Self {
        Self { path: path.to_owned(), problem: Box::new(problem) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The problem and the remedy, without the file's name.
    pub fn problem(&self) -> String {
        self.problem.to_string()
    }

    pub fn kind(&self) -> ErrorKind {
        match *self.problem {
            Problem::Missing => ErrorKind::Missing,
            Problem::Io(_) | Problem::TooLarge(_) => ErrorKind::Unreadable,
            Problem::Denied { .. }
            | Problem::Kind(_)
            | Problem::NoOwnerRead { .. }
            | Problem::Foreign { .. }
            | Problem::LooseOfRoot { .. }
            | Problem::Loose { .. }
            | Problem::CannotTighten { .. } => ErrorKind::Permissions,
        }
    }
}

/// Returns the path of a file that outlives the runner: `name` in the state directory, else beside the cache with the
/// cache's name before it. `None` if there is neither.
pub fn place(name: &str, state_directory: Option<&Path>, cache: Option<&Path>) -> Option<PathBuf> {
    if let Some(folder) = state_directory {
        return Some(folder.join(name));
    }
    let cache = cache?;
    let mut beside = cache.file_name()?.to_owned();
    beside.push(format!(".{name}"));
    Some(cache.with_file_name(beside))
}

/// Reads the whole of `path`, at most `limit` bytes.
pub fn read(path: &Path, access: Access, limit: u64) -> Result<Contents, Error> {
    read_checked(path, access, limit).map_err(|problem| Error::new(path, problem))
}

fn read_checked(path: &Path, access: Access, limit: u64) -> Result<Contents, Problem> {
    let file = open(path)?;
    let mut warnings = Vec::from_iter(check(path, &file, access)?);
    let mut bytes = Vec::new();
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(Problem::Io)?;
    if u64::try_from(read).is_ok_and(|read| read > limit) {
        return Err(Problem::TooLarge(limit));
    }
    warnings.extend(trust::exchangeable(parent_of(path)).map(Warning::Exchangeable));
    Ok(Contents { bytes, warnings })
}

/// Opens the mark at `path`, a file whose presence counts whatever its mode and content; `None`: it is not there.
///
/// # Errors
///
/// There is something that is not a regular file of root or of this process's user.
pub fn open_mark(path: &Path) -> Result<Option<File>, Error> {
    let checked = open(path).and_then(|file| {
        let found = file.metadata().map_err(Problem::Io)?;
        check_kind(&found)?;
        let help = chown(path);
        check_owner(&found).map_err(|owner| Problem::Foreign { owner, help, rotate: "" })?;
        Ok(file)
    });
    match checked {
        Ok(file) => Ok(Some(file)),
        Err(Problem::Missing) => Ok(None),
        Err(problem) => Err(Error::new(path, problem)),
    }
}

fn open(path: &Path) -> Result<File, Problem> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
        match error.raw_os_error() {
            // FreeBSD reports EMLINK for a link when O_NOFOLLOW is set.
            Some(libc::ELOOP | libc::EMLINK) => Problem::Kind("a symbolic link"),
            Some(libc::ENXIO | libc::ENODEV | libc::EOPNOTSUPP) => Problem::Kind("a socket or a device"),
            Some(libc::ENOENT | libc::ENOTDIR) => Problem::Missing,
            Some(libc::EACCES | libc::EPERM) => denied(path, error),
            _ => Problem::Io(error),
        }
    })
}

/// Determines why this user may not open a file: its own mode, its owner, or a parent directory.
fn denied(path: &Path, cause: io::Error) -> Problem {
    let us = user(trust::our_uid());
    let way: Vec<&Path> = parent_of(path).ancestors().filter(|above| !above.as_os_str().is_empty()).collect();
    let closed = way.into_iter().rev().find(|above| access(*above, AccessFlags::X_OK).is_err());
    let help = match (closed, std::fs::symlink_metadata(path)) {
        (Some(closed), _) => format!(
            "{us} may not enter the directory {}; `chmod o+x {}`",
            closed.display(),
            shell_word(closed)
        ),
        (None, Ok(found)) if found.uid() == trust::our_uid() => {
            return Problem::NoOwnerRead { mode: found.mode() & 0o7777, help: chmod(path) };
        }
        (None, Ok(found)) => format!(
            "it belongs to {}; `{}`, or start as that user",
            user(found.uid()),
            own(path, found.mode())
        ),
        (None, Err(_)) => "start as root".to_owned(),
    };
    Problem::Denied { cause, help }
}

fn check_kind(found: &Metadata) -> Result<(), Problem> {
    if found.is_file() { Ok(()) } else { Err(Problem::Kind(kind_in_words(found.file_type()))) }
}

/// The error is the owner as text.
fn check_owner(found: &Metadata) -> Result<(), String> {
    if trust::is_trusted(found.uid()) { Ok(()) } else { Err(user(found.uid())) }
}

/// Checks the opened file, and removes loose permissions if `access` says so.
fn check(path: &Path, file: &File, access: Access) -> Result<Option<Warning>, Problem> {
    let found = file.metadata().map_err(Problem::Io)?;
    check_kind(&found)?;
    let (uid, mode) = (found.uid(), found.mode() & 0o7777);
    let ours = uid == trust::our_uid();
    let is_loose = mode & GROUP_AND_OTHERS != 0;
    if access == Access::Observe {
        let path = path.to_owned();
        return Ok(match (trust::is_trusted(uid) && (ours || !is_loose), mode & OWNER_READ != 0) {
            (false, _) => Some(Warning::NotOurs { path, mode, uid }),
            (true, false) => Some(Warning::NoOwnerRead { path, mode }),
            (true, true) if is_loose => Some(Warning::Loose { mode }),
            (true, true) => None,
        });
    }
    check_owner(&found).map_err(|owner| {
        let help = own(path, mode);
        Problem::Foreign { owner, help, rotate: rotate(mode) }
    })?;
    // open() succeeds for root whatever the mode is.
    if mode & OWNER_READ == 0 {
        let help = if ours { chmod(path) } else { own(path, mode) };
        return Err(Problem::NoOwnerRead { mode, help });
    }
    match access {
        _ if !is_loose => Ok(None),
        // Only its owner, root, may change its mode.
        _ if !ours => {
            let (owner, help) = (user(uid), own(path, mode));
            Err(Problem::LooseOfRoot { mode, owner, help, rotate: rotate(mode) })
        }
        Access::Tighten => tighten(path, file, mode).map(Some),
        Access::Refuse | Access::Observe => Err(Problem::Loose { mode }),
    }
}

fn tighten(path: &Path, file: &File, mode: u32) -> Result<Warning, Problem> {
    let Err(cause) = file.set_permissions(Permissions::from_mode(PRIVATE)) else {
        return Ok(Warning::Tightened { mode });
    };
    let word = shell_word(path);
    let help = match cause.raw_os_error() {
        Some(libc::EROFS) => {
            format!("`install -m 0600 {word} NEW` on a file system that can be written, and give NEW")
        }
        Some(libc::EPERM) => format!("`chattr -ia {word} && {}`", chmod(path)),
        _ => format!("`{}`", chmod(path)),
    };
    Err(Problem::CannotTighten { mode, cause, help })
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

    /// The error without the folder, whose name differs each time.
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
                assert_eq!(contents.warnings, []);
            }
            assert_eq!(mode_of(&path), mode);
        }
    }

    #[test]
    fn access_of_others_is_taken_away_with_a_warning() {
        for mode in [0o640, 0o604, 0o602, 0o601, 0o777, 0o444] {
            let (_folder, path) = file(mode);
            let contents = read(&path, Access::Tighten, LIMIT).unwrap();
            assert_eq!(contents.warnings, [Warning::Tightened { mode }]);
            assert_eq!(contents.bytes, b"secret");
            assert_eq!(mode_of(&path), 0o600);
        }
    }

    #[test]
    fn looking_changes_nothing() {
        let (_folder, path) = file(0o644);
        let contents = read(&path, Access::Observe, LIMIT).unwrap();
        assert_eq!(contents.warnings, [Warning::Loose { mode: 0o644 }]);
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
            // Root reaches the check of the mode; for others, open() itself fails.
            assert!(text.starts_with("/etc/file: "), "{text}");
        }
        assert_eq!(mode_of(&path), 0o266);
    }

    #[test]
    fn another_users_file_is_refused_whatever_its_mode() {
        if !nix::unistd::geteuid().is_root() {
            return; // only root can give files away
        }
        for (mode, command) in [
            (0o600, "`chown root /etc/file`"),
            (0o400, "`chown root /etc/file`"),
            (0o644, "`chown root /etc/file && chmod 0600 /etc/file` and rotate the secrets that are in it"),
            (0o000, "`chown root /etc/file && chmod 0600 /etc/file`"),
        ] {
            let (_folder, path) = file(mode);
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            for access in [Access::Tighten, Access::Refuse] {
                let (kind, text) = refused(&path, access);
                assert_eq!(kind, ErrorKind::Permissions);
                let who = "/etc/file: it belongs to uid 12345, who could change what start-worker does; ";
                assert_eq!(text, format!("{who}{command}"));
                assert_eq!(mode_of(&path), mode);
            }
            let warnings = read(&path, Access::Observe, LIMIT).unwrap().warnings;
            assert_eq!(warnings, [Warning::NotOurs { path: path.clone(), mode, uid: 12_345 }]);
        }
    }

    #[test]
    fn a_file_that_others_can_exchange_is_read_with_a_warning() {
        let (folder, path) = file(0o600);
        for (mode, expected) in [(0o777, 1), (0o1777, 0), (0o755, 0), (0o702, 1)] {
            std::fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            let warnings = read(&path, Access::Refuse, LIMIT).unwrap().warnings;
            assert_eq!(warnings.len(), expected, "{mode:o}");
            for warning in warnings {
                let text = warning.to_string().replace(folder.path().to_str().unwrap(), "/etc");
                assert_eq!(
                    text,
                    format!(
                        "other users can write to the directory /etc (its mode is {mode:04o}) and could exchange this file; `chmod go-w /etc`"
                    )
                );
            }
        }
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
        let path = || PathBuf::from("/etc/file");
        let warnings = [
            Warning::Tightened { mode: 0o644 },
            Warning::Loose { mode: 0o644 },
            Warning::NoOwnerRead { path: path(), mode: 0o200 },
        ];
        insta::assert_snapshot!(warnings.map(|warning| warning.to_string()).join("\n"), @"
    mode was 0644, others had access: it is 0600 now; rotate the secrets that are in it
    mode is 0644, others have access: chmod it 0600 and rotate the secrets that are in it
    mode is 0200, its owner may not read it: a start refuses it; `chmod 0600 /etc/file`
    ");
        let us = user(trust::our_uid());
        let text = Warning::NotOurs { path: path(), mode: 0o600, uid: 12_345 }.to_string();
        let expected = format!(
            "it belongs to uid 12345: a start by {us} refuses it; unless uid 12345 starts start-worker, `{}`",
            chown(&path())
        );
        assert_eq!(text, expected);
    }
}
