//! What protects the runner itself: the OOM killer spares it, and its memory, which holds credentials, is not dumped.

use tracing::debug;

/// The score that the kernel never kills.
const NEVER: &str = "-1000";

/// Tells the OOM killer to spare the runner. Where that is not allowed (no `CAP_SYS_RESOURCE`), it stays as it is.
pub fn spare_runner() {
    match std::fs::write("/proc/self/oom_score_adj", NEVER) {
        Ok(()) => debug!(score = NEVER, "the OOM killer spares the runner"),
        Err(error) => debug!(%error, "cannot tell the OOM killer to spare the runner"),
    }
}

/// Keeps the runner's memory out of core dumps and away from debuggers of the same user.
pub fn forbid_dumps() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        debug!(%error, "cannot keep the runner's memory out of core dumps");
    }
}
