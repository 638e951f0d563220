//! The host's power: the commands that shut it down and reboot it.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// How long such a command may take; it only asks.
const TIME: Duration = Duration::from_secs(60);

/// How much of a command's own error message is kept, in bytes.
const MESSAGE: u64 = 1024;

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

/// Runs `host.shutdownCommand` or `host.rebootCommand` and waits for it, 60 s at most.
pub async fn run(command: &[String]) -> Result<(), PowerError> {
    let (program, args) =
        command.split_first().map(|(first, rest)| (first.clone(), rest)).unwrap_or_default();
    let mut process = Command::new(&program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|cause| PowerError::Execute { program: program.clone(), cause })?;
    let stderr = process.stderr.take();
    let read = async {
        let mut message = Vec::new();
        if let Some(stderr) = stderr {
            // What cannot be read is not worth failing for.
            let _ = stderr.take(MESSAGE).read_to_end(&mut message).await;
        }
        (process.wait().await, message)
    };
    match tokio::time::timeout(TIME, read).await {
        Err(_) => Err(PowerError::Hangs { program }),
        Ok((Err(cause), _)) => Err(PowerError::Execute { program, cause }),
        Ok((Ok(status), _)) if status.success() => Ok(()),
        Ok((Ok(status), message)) => {
            let message = String::from_utf8_lossy(&message).trim().replace('\n', "; ");
            Err(PowerError::Failed { program, status, message })
        }
    }
}
