//! The host's power: the commands that shut the host down or reboot it, and the force commands that follow when the
//! host stays up.

use std::fmt;
use std::time::Duration;

use tracing::{error, info};

use super::helper::{self, HelperError, Helpers, Output, Remains};
use super::{oom, service_manager};

/// Time limit of a host command, which only requests the shutdown or reboot.
const LIMIT: Duration = Duration::from_secs(60);

/// Time limit for asking whether the system is going down.
const STATE_LIMIT: Duration = Duration::from_secs(2);

/// The number of bytes of a host command's output to keep.
const KEPT: usize = 4096;

/// Time limit for a successful force command to take effect. A force command depends on no other process.
const FORCED: Duration = Duration::from_secs(60);

/// Time limit for a successful force command to take effect, given the ordinary command's time limit.
pub fn force_time(patience: Duration) -> Duration {
    patience.min(FORCED)
}

/// The OOM score of a host command. It must not inherit the runner's own.
const COMMON_SCORE: i16 = 0;

/// The escalation steps with which a host is shut down or rebooted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeDown {
    /// `shutdown` or `reboot`.
    pub what: &'static str,
    /// `host.shutdownCommand` or `host.rebootCommand`.
    pub command: Vec<String>,
    /// `host.forceShutdownCommand` or `host.forceRebootCommand`; `None`: no force command follows.
    pub force: Option<Vec<String>>,
    /// `supervision.rebootTimeout`: time limit for the host to go down after the command has succeeded.
    pub patience: Duration,
}

/// The reason why the host is still up after every step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StillUp(String);

impl fmt::Display for StillUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The result of taking the host down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Descent {
    /// A command has succeeded, and the host is going down.
    GoingDown,
    /// The host is still up after every step.
    StillUp(StillUp),
}

impl TakeDown {
    /// Runs the command. If it fails or the host stays up, the force command follows. `going_down` completes when the
    /// host begins to go down, which the runner learns by being asked to end.
    pub async fn run(&self, helpers: &Helpers, going_down: impl Future) -> Descent {
        let mut going_down = std::pin::pin!(going_down);
        let steps = [
            Some((&self.command, self.patience)),
            self.force.as_ref().map(|force| (force, force_time(self.patience))),
        ];
        let mut faults = Vec::new();
        for (command, patience) in steps.into_iter().flatten() {
            if let Err(cause) = run_host_command(self.what, command, helpers).await {
                faults.push(cause.to_string());
                continue;
            }
            tokio::select! {
                biased;
                _ = &mut going_down => return Descent::GoingDown,
                () = tokio::time::sleep(patience) => {}
            }
            let (command, waited) = (command.join(" "), humantime::format_duration(patience));
            error!(name: "host-still-up", what = self.what, command, %waited, "the host command succeeded, and the host is still up");
            faults.push(format!("{command} has left the host up for {waited}"));
        }
        Descent::StillUp(StillUp(faults.join("; ")))
    }
}

/// Returns true if the service manager reports that the system is going down; false without a service manager.
pub async fn is_going_down(helpers: &Helpers) -> bool {
    let ask = async {
        let words = ["systemctl", "is-system-running"].map(str::to_owned);
        let command = host_command(&words)?;
        helpers.start("systemctl", move || Ok(command), KEPT, Remains::Killed).await?.end(STATE_LIMIT).await
    };
    ask.await.is_ok_and(|output| output.stdout.trim_ascii() == b"stopping")
}

/// Runs a host command to its end, and logs its output. Logs an error if the command cannot be executed, fails, or
/// takes longer than 60 s.
pub async fn run_host_command(
    what: &'static str,
    command: &[String],
    helpers: &Helpers,
) -> Result<(), HelperError> {
    info!(name: "host-command-started", what, command = %command.join(" "), "running the host command");
    let output = run(command, helpers).await.inspect_err(|cause| {
        error!(name: "host-command-failed", what, error = %cause, "the host command failed");
    })?;
    let said = output.said();
    if !said.is_empty() {
        info!(name: "host-command-succeeded", what, said, "the host command succeeded");
    }
    Ok(())
}

/// A command of the runner configuration, without what only the runner itself is for.
///
/// # Errors
///
/// The program is nowhere, or may not be executed.
pub fn host_command(words: &[String]) -> Result<std::process::Command, HelperError> {
    let mut command = helper::command(words)?;
    service_manager::hide_from(&mut command);
    oom::set_for_child(&mut command, COMMON_SCORE);
    Ok(command)
}

/// Runs a command of the host to its end.
///
/// # Errors
///
/// The command cannot be executed, fails, or takes longer than 60 s.
pub async fn run(command: &[String], helpers: &Helpers) -> Result<Output, HelperError> {
    let words = command.to_vec();
    let make = move || host_command(&words);
    let program = command.first().map_or("", String::as_str);
    helpers.start(program, make, KEPT, Remains::GoOn).await?.end(LIMIT).await?.success()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    async fn run(command: &[&str]) -> Result<Output, HelperError> {
        super::run(&words(command), &Helpers::default()).await
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

    #[tokio::test]
    async fn the_force_command_follows_a_command_that_fails_and_one_that_leaves_the_host_up() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("forced");
        for (command, says) in [
            (words(&["/nowhere/shutdown"]), "cannot execute /nowhere/shutdown: "),
            (words(&["false"]), "false failed (exit status: 1)"),
            (words(&["true"]), "true has left the host up for 10ms"),
        ] {
            let take_down = TakeDown {
                what: "shutdown",
                command,
                force: Some(words(&["touch", mark.to_str().unwrap()])),
                patience: Duration::from_millis(10),
            };
            let Descent::StillUp(still_up) =
                take_down.run(&Helpers::default(), std::future::pending::<()>()).await
            else {
                panic!("nothing takes this host down");
            };
            let still_up = still_up.to_string();
            assert!(still_up.starts_with(says), "{still_up}");
            assert!(still_up.ends_with("forced has left the host up for 10ms"), "{still_up}");
            std::fs::remove_file(&mark).unwrap();
        }
    }

    #[tokio::test]
    async fn nothing_follows_when_the_host_goes_down() {
        let take_down = TakeDown {
            what: "shutdown",
            command: words(&["true"]),
            force: Some(words(&["/nowhere/poweroff"])),
            patience: Duration::from_secs(600),
        };
        let descent = take_down.run(&Helpers::default(), std::future::ready(())).await;
        assert_eq!(descent, Descent::GoingDown);
    }
}
