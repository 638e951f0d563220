//! The exit codes of the runner.

use start_worker::RunError;
use start_worker::config::{LoadError, LoadErrorKind};
use start_worker::event::Outcome;
use start_worker::host::private_file;
use start_worker::startup::FailureKind;

/// The run ended as intended.
pub(crate) const OK: u8 = 0;
/// The run failed.
pub(crate) const FAILED: u8 = 1;
/// The runner configuration is missing or invalid, in content or for this host. (sysexits: `EX_USAGE`)
pub(crate) const CONFIGURATION: u8 = 64;
/// Taskcluster or the metadata service could not be reached in time. (sysexits: `EX_TEMPFAIL`) Not 69: generic-worker's
/// wrappers interpret 69 as "unfit", its exit code for a worker bug or a broken host, and quarantine the host.
const UNREACHABLE: u8 = 75;
/// The worker needs a reboot that did not happen. (sysexits: `EX_SOFTWARE`)
const NEEDS_REBOOT: u8 = 70;
/// A file has the wrong permissions, owner or type. (sysexits: `EX_NOPERM`)
pub(crate) const PERMISSIONS: u8 = 77;

/// The exit code of a run.
pub(crate) fn code(result: &Result<Outcome, RunError>) -> u8 {
    match result {
        Ok(outcome) if outcome.is_as_intended() => OK,
        Ok(Outcome::NeedsReboot) => NEEDS_REBOOT,
        Err(RunError::Worker(_)) => CONFIGURATION,
        Err(RunError::Mark(cause)) if cause.kind() == private_file::ErrorKind::Permissions => PERMISSIONS,
        Err(RunError::Prepare(cause)) => match cause.kind() {
            FailureKind::Unreachable => UNREACHABLE,
            FailureKind::Configuration => CONFIGURATION,
            FailureKind::Permissions => PERMISSIONS,
            FailureKind::Refused | FailureKind::Other => FAILED,
        },
        Ok(_) | Err(RunError::Mark(_) | RunError::Signals(_)) => FAILED,
    }
}

/// The exit code of a runner configuration that cannot be loaded.
pub(crate) fn load_code(error: &LoadError) -> u8 {
    match error.kind() {
        LoadErrorKind::Invalid => CONFIGURATION,
        LoadErrorKind::Permissions => PERMISSIONS,
    }
}
