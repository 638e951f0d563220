//! Looks up the program of a host command, and checks that the file systems on the way to a program answer.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use super::HelperError;
use crate::host::blocking::{Lane, Unanswered};
use crate::host::mounts;

/// The maximum length, in bytes, that the kernel reads of a script's first line.
const FIRST_LINE: u64 = 256;

/// Additional folders in which programs are looked up, because a service's `PATH` may lack the administrator's folders.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Builds a command of the runner configuration. The program is looked up in `PATH` and then in the administrator's
/// folders, which are also added to the command's `PATH`.
pub fn command(words: &[String]) -> Result<Command, HelperError> {
    let (program, arguments) =
        words.split_first().map(|(first, rest)| (first.as_str(), rest)).unwrap_or_default();
    let path = with_sbin(std::env::var_os("PATH").as_deref());
    let found = look_up(program, &path).map_err(|cause| HelperError::execute(program, cause))?;
    let mut command = Command::new(found);
    // Some programs are one file with several names.
    command.arg0(program).args(arguments).env("PATH", path);
    Ok(command)
}

fn with_sbin(path: Option<&OsStr>) -> OsString {
    let mut folders: Vec<PathBuf> = path
        .into_iter()
        .flat_map(std::env::split_paths)
        .filter(|folder| !folder.as_os_str().is_empty())
        .collect();
    let missing: Vec<_> = SBIN.iter().map(PathBuf::from).filter(|folder| !folders.contains(folder)).collect();
    folders.extend(missing);
    std::env::join_paths(folders).unwrap_or_default()
}

fn look_up(program: &str, path: &OsStr) -> io::Result<PathBuf> {
    if program.contains('/') {
        return Ok(PathBuf::from(program));
    }
    let mut cause = io::Error::from_raw_os_error(libc::ENOENT);
    for folder in std::env::split_paths(path) {
        let candidate = folder.join(program);
        if !candidate.is_file() {
            continue;
        }
        match access(&candidate, AccessFlags::X_OK) {
            Ok(()) => return Ok(candidate),
            Err(error) => cause = error.into(),
        }
    }
    Err(cause)
}

/// Visits the places that the kernel or `execvp(3)` visits to execute this program, in the same order, each for at most
/// `limit`: the folders of `path` (`None`: of the runner's own `PATH`, and the administrator's folders) if the program
/// has no slash, and a script's interpreter. Returns the program's path; `None`: not found. The error names a place
/// that does not answer.
pub async fn visit(
    program: &Path,
    path: Option<&OsStr>,
    (lane, limit): (&Lane, Duration),
) -> Result<Option<PathBuf>, Unanswered> {
    for place in places(program, path) {
        let visited = place.clone();
        match lane.at(&place, limit, move || Executable::at(&visited)).await? {
            None => continue,
            Some(Executable::Binary) => {}
            Some(Executable::Script { interpreter }) => lane.at(&interpreter, limit, || ()).await?,
        }
        return Ok(Some(place));
    }
    Ok(None)
}

fn places(program: &Path, path: Option<&OsStr>) -> Vec<PathBuf> {
    if program.as_os_str().as_bytes().contains(&b'/') {
        return vec![program.to_owned()];
    }
    let path = path.map_or_else(|| with_sbin(std::env::var_os("PATH").as_deref()), OsStr::to_owned);
    std::env::split_paths(&path).map(|folder| folder.join(program)).collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Executable {
    Binary,
    /// The file's first line names an interpreter.
    Script {
        interpreter: PathBuf,
    },
}

impl Executable {
    /// `None`: there is no executable file at this path.
    fn at(program: &Path) -> Option<Self> {
        if !program.is_file() || access(program, AccessFlags::X_OK).is_err() {
            return None;
        }
        let mut start = Vec::new();
        let read = File::open(program).and_then(|file| file.take(FIRST_LINE).read_to_end(&mut start));
        let line = start.split(|byte| *byte == b'\n').next().filter(|_| read.is_ok());
        let named =
            line.and_then(|line| line.strip_prefix(b"#!")).map(<[u8]>::trim_ascii).unwrap_or_default();
        let interpreter = named.split(u8::is_ascii_whitespace).next().filter(|name| !name.is_empty());
        Some(match interpreter.map(|name| PathBuf::from(OsStr::from_bytes(name))) {
            Some(interpreter) => Self::Script { interpreter },
            None => Self::Binary,
        })
    }
}

/// Returns the usual cause of the error. Accesses the files.
pub(super) fn hint(program: &str, cause: &io::Error) -> String {
    let is_path = program.contains('/');
    let hint = match cause.kind() {
        io::ErrorKind::NotFound if !is_path => {
            " (looked up in PATH, then in /usr/local/sbin, /usr/sbin and /sbin)"
        }
        io::ErrorKind::NotFound if Path::new(program).exists() => {
            " (the file is there: the interpreter in its first line is not)"
        }
        io::ErrorKind::PermissionDenied if Path::new(program).is_dir() => " (it is a directory)",
        io::ErrorKind::PermissionDenied => match mounts::noexec_hint(Path::new(program)) {
            Some(hint) => return hint,
            None => " (is it executable?)",
        },
        _ => hint_of_kernel(cause),
    };
    hint.to_owned()
}

/// Explains a kernel error whose own text is not specific enough.
pub fn hint_of_kernel(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::ENOEXEC) => {
            " (it is empty or damaged, for another kind of machine, or a script without `#!` in its first line)"
        }
        Some(libc::EAGAIN) => " (no more processes or threads are allowed: see `ulimit -u`, TasksMax=)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_program_is_looked_up_in_path_and_then_where_administrators_have_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tool");
        std::fs::write(&file, "").unwrap();
        let path = with_sbin(Some(folder.path().as_os_str()));
        assert!(path.to_str().unwrap().ends_with(":/usr/local/sbin:/usr/sbin:/sbin"), "{path:?}");
        assert_eq!(look_up("tool", &path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(look_up("tool", &path).unwrap(), file);
        assert_eq!(with_sbin(None), "/usr/local/sbin:/usr/sbin:/sbin");
    }

    #[test]
    fn a_program_on_a_file_system_that_is_mounted_noexec_is_said_to_be_there() {
        // A program cannot be created there, but the check is about the mount and not the program.
        let there = Path::new("/proc/self/status");
        let Some(mount) = mounts::noexec_mount_of(there) else {
            return; // /proc is noexec everywhere but in some containers
        };
        let hint = hint(there.to_str().unwrap(), &io::Error::from_raw_os_error(libc::EACCES));
        let expected = format!(" (its file system, {}, is mounted noexec: ", mount.display());
        assert!(hint.starts_with(&expected), "{hint}");
    }

    #[test]
    fn the_interpreter_of_a_script_is_the_first_word_of_its_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("script");
        assert_eq!(Executable::at(&file), None);
        assert_eq!(Executable::at(folder.path()), None);
        let script = |interpreter: &str| Executable::Script { interpreter: interpreter.into() };
        for (text, found) in [
            ("#!/bin/sh -e\nexit 0\n", script("/bin/sh")),
            ("#! /usr/bin/env  node\n", script("/usr/bin/env")),
            ("#!/bin/sh", script("/bin/sh")),
            ("#!\n/bin/sh\n", Executable::Binary),
            ("\x7fELF", Executable::Binary),
            ("", Executable::Binary),
        ] {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
            assert_eq!(Executable::at(&file), Some(found), "{text:?}");
        }
    }

    #[test]
    fn a_program_that_is_nowhere_is_named_with_the_folders() {
        let error = command(&["no-such-program-here".to_owned()]).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot execute no-such-program-here: No such file or directory (os error 2) (looked up in PATH, then in \
             /usr/local/sbin, /usr/sbin and /sbin)"
        );
    }
}
