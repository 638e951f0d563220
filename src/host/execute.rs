//! Execution of exactly the named program.
//!
//! `execvp(3)`, which the standard library calls, passes a file that the kernel does not accept as a program to
//! `/bin/sh`. An empty file, which a full disk or an interrupted copy leaves, then "succeeds", and half a binary
//! becomes a shell's syntax error.
#![expect(
    unsafe_code,
    reason = "pre_exec runs between fork and exec; execve has no safe wrapper that does not allocate"
)]

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

/// Makes the command execute its program or fail, without a shell as fallback. `name` becomes the program's `argv[0]`.
/// Must be called last, on a command whose program contains a slash. Fails if an argument or a variable contains a NUL.
pub fn exactly(command: &mut Command, name: &OsStr) -> io::Result<()> {
    let given = Arguments::of(command, name)?;
    let execute = move || Err(given.execute());
    // SAFETY: the closure makes one system call, on data that was allocated before the fork.
    unsafe { command.pre_exec(execute) };
    Ok(())
}

/// The arguments of `execve(2)`. The pointers refer to the strings in `program` and `_strings`.
struct Arguments {
    program: CString,
    _strings: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
}

// SAFETY: the strings belong to this value and never change.
unsafe impl Send for Arguments {}
// SAFETY: as above.
unsafe impl Sync for Arguments {}

impl Arguments {
    fn of(command: &Command, name: &OsStr) -> io::Result<Self> {
        let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => environment.insert(variable.to_owned(), value.to_owned()),
                None => environment.remove(variable),
            };
        }
        let words = [name].into_iter().chain(command.get_args());
        let words = words.map(|word| CString::new(word.as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let entries = environment
            .into_iter()
            .map(|(variable, value)| CString::new([variable.as_bytes(), b"=", value.as_bytes()].concat()));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        let pointers = |strings: &[CString]| {
            strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect::<Vec<_>>()
        };
        let (argv, envp) = (pointers(&words), pointers(&entries));
        let program = CString::new(command.get_program().as_bytes())?;
        // Moving the strings does not move their bytes.
        let strings = words.into_iter().chain(entries).collect();
        Ok(Self { program, _strings: strings, argv, envp })
    }

    /// Executes the program. Returns only on failure, with the cause.
    fn execute(&self) -> io::Error {
        // SAFETY: both lists end with a null pointer, and their strings live as long as they do.
        unsafe { libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        io::Error::last_os_error()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn arguments_and_environment_are_those_of_the_command() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo \"$0 $1 $MADE_UP ${HOME-none} ${PATH:+path}\"", "zero", "one two"]);
        command.env("MADE_UP", "a value").env_remove("HOME");
        exactly(&mut command, OsStr::new("sh")).unwrap();
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "zero one two a value none path\n");
    }

    #[test]
    fn what_is_no_program_is_an_error_and_no_shell_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        for content in [&b""[..], b"exit 0\n", b"\x7fELF\x02\x01\x01\0half"] {
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
            let mut command = Command::new(&file);
            exactly(&mut command, OsStr::new("program")).unwrap();
            let error = command.status().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOEXEC), "{content:?}: {error}");
        }
    }
}
