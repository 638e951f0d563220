//! Checks that other users cannot change the files and directories on which the runner relies, and the commands that
//! correct them.
//!
//! A user who can change a file that the runner acts on controls what root executes. Such files, and the directories on
//! the way to them, must therefore belong to root or to the runner's own user, and no other user may write to them.

use std::fmt::Write as _;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The permission bits that let users other than the owner write.
const OTHERS_WRITE: u32 = 0o022;
/// In a directory with this bit, only a file's owner can remove or rename it.
const STICKY: u32 = 0o1000;

pub fn our_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Returns true if files of this user are trusted: root, or the runner's own user.
pub fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == our_uid()
}

/// Quotes a path as one word of a shell command.
pub fn shell_word(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+=:@%,".contains(byte);
    if !bytes.is_empty() && bytes[..1] != *b"-" && bytes.iter().all(plain) {
        return path.display().to_string();
    }
    if bytes.iter().all(|byte| !byte.is_ascii_control()) && std::str::from_utf8(bytes).is_ok() {
        return format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    }
    let mut word = "$'".to_owned();
    for byte in bytes {
        if plain(byte) {
            word.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(word, "\\x{byte:02x}");
        }
    }
    word.push('\'');
    word
}

/// The command that makes this process's user the owner of a file or directory.
pub fn chown(path: &Path) -> String {
    match our_uid() {
        0 => format!("chown root {}", shell_word(path)),
        uid => format!("chown {uid} {}", shell_word(path)),
    }
}

/// The command that keeps others from writing to a file or directory.
pub fn chmod_go_w(path: &Path) -> String {
    format!("chmod go-w {}", shell_word(path))
}

/// A directory in which others can create or replace files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    pub path: PathBuf,
    /// `it belongs to uid 1000`, `its mode is 0777`.
    why: String,
    /// The command that fixes the permissions.
    pub fix: String,
}

impl std::fmt::Display for Exposed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "other users can write to the directory {} ({})", self.path.display(), self.why)
    }
}

/// Returns the directory through which others can put files into `directory` or replace one of its parents. `None` also
/// if nothing can be determined.
pub fn exposed(directory: &Path) -> Option<Exposed> {
    let real = std::fs::canonicalize(directory).ok()?;
    exposed_itself(&real, 0).or_else(|| exposed_above(&real))
}

/// Returns the directory through which others can replace the files in `directory`. As [`exposed`], but a directory
/// like `/tmp`, where everybody can create files and only their owners can remove them, does not count.
pub fn exchangeable(directory: &Path) -> Option<Exposed> {
    let real = std::fs::canonicalize(directory).ok()?;
    exposed_itself(&real, STICKY).or_else(|| exposed_above(&real))
}

fn exposed_above(directory: &Path) -> Option<Exposed> {
    directory.ancestors().skip(1).find_map(|above| exposed_itself(above, STICKY))
}

fn exposed_itself(directory: &Path, but_for: u32) -> Option<Exposed> {
    let found = std::fs::metadata(directory).ok()?;
    let (path, mode) = (directory.to_owned(), found.mode() & 0o7777);
    if !is_trusted(found.uid()) {
        let why = format!("it belongs to uid {}", found.uid());
        return Some(Exposed { fix: chown(directory), path, why });
    }
    if !others_write(&found) || mode & but_for != 0 {
        return None;
    }
    Some(Exposed { fix: chmod_go_w(directory), path, why: format!("its mode is {mode:04o}") })
}

/// Explains that other users could change the certificates at `path`, which `variable` names, and so decide which
/// servers TLS trusts: they could answer in Taskcluster's place, and such an answer can have files written as root.
/// `None` also if the file does not exist.
pub fn exposed_authority(variable: &str, path: &Path) -> Option<String> {
    let found = std::fs::metadata(path).ok()?;
    let (at, uid, mode) = (path.display(), found.uid(), found.mode() & 0o7777);
    let (what, fix) = if !is_trusted(uid) {
        (format!("belongs to uid {uid}"), chown(path))
    } else if others_write(&found) {
        (format!("can be written by other users (mode {mode:04o})"), chmod_go_w(path))
    } else {
        return None;
    };
    Some(format!("{variable}: {at} {what}, who could have start-worker trust another server; `{fix}`"))
}

/// Returns true if users other than the owner can write to a file or directory.
pub fn others_write(found: &Metadata) -> bool {
    found.mode() & OTHERS_WRITE != 0
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn directory(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn a_directory_that_others_can_write_is_exposed_and_everything_below_it() {
        for mode in [0o777, 0o775, 0o722, 0o770, 0o2775] {
            let (_folder, path) = directory(mode);
            let found = exposed(&path).unwrap();
            assert_eq!(found.fix, format!("chmod go-w {}", path.display()), "{mode:o}");
            std::fs::create_dir(path.join("below")).unwrap();
            assert_eq!(exposed(&path.join("below")).unwrap().path, path);
            assert_eq!(exchangeable(&path.join("below")).unwrap().path, path);
        }
        for mode in [0o700, 0o755, 0o711] {
            let (_folder, path) = directory(mode);
            assert_eq!((exposed(&path), exchangeable(&path)), (None, None), "{mode:o}");
        }
    }

    #[test]
    fn in_a_sticky_directory_others_can_make_files_and_exchange_none() {
        let (_folder, path) = directory(0o1777);
        assert!(exposed(&path).is_some());
        assert_eq!(exchangeable(&path), None);
        std::fs::create_dir(path.join("below")).unwrap();
        assert_eq!(exposed(&path.join("below")), None);
    }

    #[test]
    fn another_users_directory_is_exposed_whatever_its_mode() {
        if our_uid() != 0 {
            return; // only root can give directories away
        }
        let (_folder, path) = directory(0o700);
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        let found = exposed(&path).unwrap();
        assert_eq!(found.fix, format!("chown root {}", path.display()));
        assert!(found.to_string().contains("it belongs to uid 12345"), "{found}");
    }

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        for name in ["plain/a_b-c.yml", "with space", "it's", "-n", "$(reboot)", "a\nb", "ü"] {
            let words = format!("printf %s {}", shell_word(Path::new(name)));
            let said = std::process::Command::new("bash").args(["-c", &words]).output().unwrap();
            assert_eq!(said.stdout, name.as_bytes(), "{words}");
        }
        let odd = OsStr::from_bytes(b"\xff");
        assert_eq!(shell_word(Path::new(odd)), r"$'\xff'");
    }
}
