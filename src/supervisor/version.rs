//! `<program> --version`: run if a restart in place depends on the worker's engine.

use std::process::Command;
use std::time::Duration;

use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Supervisor;
use super::spawn::{Entrances, set_apart};
use crate::host::blocking::Lanes;
use crate::host::helper::{HelperError, Helpers, Remains};
use crate::host::service_manager;
use crate::worker::LaunchSpec;
use crate::worker::generic_worker::engine_named_in;

/// Time limit of the program.
const LIMIT: Duration = Duration::from_secs(5);

/// The number of bytes of the output to keep, more than any version line has.
const KEPT: usize = 64 * 1024;

/// Returns true if the worker can be restarted without a reboot: it names an engine other than `multiuser`. When in
/// doubt, returns false.
pub(super) async fn can_restart_in_place(
    spec: LaunchSpec,
    (helpers, lanes): (Helpers, Lanes),
    forgotten: CancellationToken,
) -> bool {
    let program = spec.program.display().to_string();
    match ask(&spec, (&helpers, &lanes), &forgotten).await {
        Ok(answer) => {
            let engine = engine_named_in(&answer);
            debug!(program, engine = engine.unwrap_or("none"), "asked the worker for its version");
            engine.is_some_and(|engine| engine != "multiuser")
        }
        Err(_) if forgotten.is_cancelled() => false,
        Err(AskError::Helper(HelperError::TimedOut { .. })) => {
            warn!(program, "worker does not answer --version within 5s: taken as one that needs a reboot");
            false
        }
        Err(error) => {
            warn!(program, %error, "cannot ask the worker for its version: taken as one that needs a reboot");
            false
        }
    }
}

impl Supervisor<'_> {
    /// Cancels the version check if a stop request has made its result irrelevant.
    pub(super) fn forget_version(&self) {
        if let Some(clearing) = &self.cleanup
            && !self.machine.restart_in_place_matters(self.now())
        {
            clearing.forget_version();
        }
    }
}

#[derive(Debug, Error)]
enum AskError {
    #[error(transparent)]
    Helper(#[from] HelperError),
    #[error(transparent)]
    Account(#[from] super::start::StartError),
}

/// `forgotten`: the result has become irrelevant, and the program is killed.
async fn ask(
    spec: &LaunchSpec,
    (helpers, lanes): (&Helpers, &Lanes),
    forgotten: &CancellationToken,
) -> Result<String, AskError> {
    let mut command = Command::new(&spec.program);
    service_manager::hide_from(&mut command);
    command.arg("--version");
    let account = super::start::account(spec, lanes).await?.map(|(account, _)| account);
    set_apart(&mut command, account, spec.oom_score_adj, Entrances::default());
    let program = spec.program.to_string_lossy();
    let running = tokio::select! {
        biased;
        running = helpers.start(&program, move || Ok(command), KEPT, Remains::Killed) => running?,
        () = forgotten.cancelled() => {
            return Err(HelperError::TimedOut { program: program.into_owned(), limit: LIMIT }.into());
        }
    };
    let output = running.end_unless(LIMIT, forgotten.cancelled()).await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
