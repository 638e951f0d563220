//! The host's power: the commands that shut it down and reboot it.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::process_group::KillOnDrop;
use super::{oom, service_manager};

/// How long such a command may take; it only asks.
const TIME: Duration = Duration::from_secs(60);

/// How much of a command's own error message is kept, in bytes.
const MESSAGE: u64 = 1024;

/// Its OOM score: the runner's is not for what it starts.
const COMMON_SCORE: i16 = 0;

/// Why a host command did nothing.
#[derive(Debug, Error)]
pub enum PowerError {
    /// There is no such program, or it may not be executed.
    #[error("cannot execute {program}: {cause}")]
    Execute {
        /// The program.
        program: String,
        /// What the operating system says.
        cause: std::io::Error,
    },
    /// It ran, and failed.
    #[error("{program} failed ({status}): {message}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said on stderr.
        message: String,
    },
    /// It is still running.
    #[error("{program} has not ended within 60s")]
    Hangs {
        /// The program.
        program: String,
    },
}

/// A host command that runs. Dropped before its end, it is killed with its process group.
#[derive(Debug)]
pub struct Running {
    program: String,
    // Before the process: until that is dropped its id is its own.
    group: KillOnDrop,
    process: Child,
}

/// Starts `host.shutdownCommand` or `host.rebootCommand`.
pub fn start(command: &[String]) -> Result<Running, PowerError> {
    let (program, args) =
        command.split_first().map(|(first, rest)| (first.clone(), rest)).unwrap_or_default();
    let mut starting = Command::new(&program);
    service_manager::hide_from(starting.as_std_mut());
    oom::set_for_child(starting.as_std_mut(), COMMON_SCORE);
    starting.process_group(0);
    let spawned =
        starting.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    match spawned {
        Ok(process) => Ok(Running { program, group: KillOnDrop::new(process.id()), process }),
        Err(cause) => Err(PowerError::Execute { program, cause }),
    }
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Waits for its end, 60 s at most.
    pub async fn end(mut self) -> Result<(), PowerError> {
        let stderr = self.process.stderr.take();
        let read = async {
            let mut message = Vec::new();
            if let Some(stderr) = stderr {
                // What cannot be read is not worth failing for.
                let _ = stderr.take(MESSAGE).read_to_end(&mut message).await;
            }
            (self.process.wait().await, message)
        };
        let ended = tokio::time::timeout(TIME, read).await;
        let program = self.program;
        if ended.is_ok() {
            self.group.release();
        }
        match ended {
            Err(_) => Err(PowerError::Hangs { program }),
            Ok((Err(cause), _)) => Err(PowerError::Execute { program, cause }),
            Ok((Ok(status), _)) if status.success() => Ok(()),
            Ok((Ok(status), message)) => {
                let message = String::from_utf8_lossy(&message).trim().replace('\n', "; ");
                Err(PowerError::Failed { program, status, message })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(words: &[&str]) -> Result<(), PowerError> {
        let command: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        start(&command)?.end().await
    }

    #[tokio::test]
    async fn a_command_that_succeeds_is_no_error() {
        run(&["true"]).await.unwrap();
    }

    #[tokio::test]
    async fn a_command_that_fails_says_why() {
        let error =
            run(&["sh", "-c", "echo 'no permission' >&2; echo really >&2; exit 3"]).await.unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 3): no permission; really");
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_named() {
        let error = run(&["/nowhere/shutdown", "-h", "now"]).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot execute /nowhere/shutdown: No such file"), "{error}");
    }
}
