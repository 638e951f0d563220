//! Which files and directories of others the runner may rely on, and what a command line can do about the rest.
//!
//! Whoever can change a file that the runner acts on chooses what root executes. So such files must belong to root or
//! to the runner's own user, and so must the directories on the way to them; nobody else may write either.

use std::fmt::Write as _;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The permission bits with which somebody else than the owner can write.
const OTHERS_WRITE: u32 = 0o022;
/// In a directory with this bit only a file's owner can remove or rename it.
const STICKY: u32 = 0o1000;

/// This process's user.
pub fn our_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Whether what belongs to this user can be relied on: root, or the runner's own.
pub fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == our_uid()
}

/// A path as a word of a shell's command line.
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

/// The command that makes a file, or a directory, this process's user's own.
pub fn chown(path: &Path) -> String {
    match our_uid() {
        0 => format!("chown root {}", shell_word(path)),
        uid => format!("chown {uid} {}", shell_word(path)),
    }
}

/// The command that keeps others from writing a file or directory.
pub fn chmod_go_w(path: &Path) -> String {
    format!("chmod go-w {}", shell_word(path))
}

/// A directory in which others can put or exchange files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    /// The directory.
    pub path: PathBuf,
    /// Who can: `uid 1000 owns it`, `its mode is 0777`.
    why: String,
    /// The command that ends it.
    pub fix: String,
}

impl std::fmt::Display for Exposed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "other users can write to the directory {} ({})", self.path.display(), self.why)
    }
}

/// Whether others can put files into `directory`, or exchange a directory above it. `None` also where nothing can be
/// found out.
pub fn exposed(directory: &Path) -> Option<Exposed> {
    let real = std::fs::canonicalize(directory).ok()?;
    exposed_itself(&real, 0).or_else(|| exposed_above(&real))
}

/// Whether others can exchange what is in `directory` for something else: as [`exposed`], but a directory like `/tmp`,
/// where everybody can make files and only their owners can remove them, is none.
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

/// Explains why other users could choose whom TLS trusts by changing the certificates at `path`, which `variable`
/// names: they could answer in Taskcluster's place, and an answer can have files written as root. `None` also where
/// there is nothing.
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

/// Whether somebody else than its owner can write a file or directory.
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
