//! `<program> --version`: asked where it depends on a worker's engine whether it can be started again in place.

use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tracing::{debug, warn};

use super::descendants::Helpers;
use super::spawn::set_apart;
use crate::host::process_group::KillOnDrop;
use crate::host::service_manager;
use crate::worker::LaunchSpec;
use crate::worker::generic_worker::engine_named_in;

/// How long the program may take.
const TIME: Duration = Duration::from_secs(5);

/// More than any version line has.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// Whether the worker can be started again without a boot between: it names an engine, and not `multiuser`. In doubt,
/// it cannot.
pub(super) async fn can_restart_in_place(spec: LaunchSpec, helpers: Helpers) -> bool {
    let program = spec.program.display().to_string();
    match tokio::time::timeout(TIME, ask(&spec, &helpers)).await {
        Ok(Ok(answer)) => {
            let engine = engine_named_in(&answer);
            debug!(program, engine = engine.unwrap_or("none"), "asked the worker for its version");
            engine.is_some_and(|engine| engine != "multiuser")
        }
        Ok(Err(error)) => {
            warn!(program, %error, "cannot ask the worker for its version: taken as one that needs a reboot");
            false
        }
        Err(_) => {
            warn!(program, "worker does not answer --version within 5s: taken as one that needs a reboot");
            false
        }
    }
}

async fn ask(spec: &LaunchSpec, helpers: &Helpers) -> std::io::Result<String> {
    let mut command = Command::new(&spec.program);
    service_manager::hide_from(&mut command);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let (account, _) =
        spec.user.as_deref().map(super::child::account).transpose().map_err(std::io::Error::other)?.unzip();
    set_apart(&mut command, account, spec.oom_score_adj, None);
    let mut process = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    let _helper = helpers.add(process.id());
    let _group = KillOnDrop::new(process.id());
    let mut answer = Vec::new();
    if let Some(stdout) = process.stdout.take() {
        stdout.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    }
    process.wait().await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
