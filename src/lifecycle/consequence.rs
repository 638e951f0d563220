//! The consequence of a supervised run's outcome for its machine.

use crate::event::Outcome;

/// The action after the last worker has exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// The runner ends; the registration remains, and the worker may be restarted.
    End,
    /// The machine leaves worker-manager and is removed.
    Remove,
    /// As [`Consequence::Remove`], after `host.startFailureDelay`: a fault that keeps a pool's workers from running
    /// must not become a storm of boots and removals.
    RemoveLater,
    /// The host holds, or waits for the end of its quarantine; then the worker is started again.
    Hold,
    /// The worker registers again without a time limit, and is restarted.
    RegisterAnew,
    /// The worker registers again. If that succeeds, it is restarted with the new run, otherwise with the old one.
    Redeploy {
        /// True if the worker can be restarted without a reboot.
        in_place: bool,
    },
}

/// Implements the tables in docs/operations.md, "What happens when the worker ends". `dynamic`: a cloud's machine,
/// which is replaced. `registers`: the worker may register any number of times.
pub fn consequence(outcome: Outcome, dynamic: bool, registers: bool) -> Consequence {
    match outcome {
        Outcome::Redeploy { in_place } if registers => Consequence::Redeploy { in_place },
        Outcome::CredentialsExpired if registers => Consequence::RegisterAnew,
        // The machine is already removed, or it waits for a boot, or it was told to stop: it is not removed.
        Outcome::Stopped
        | Outcome::Held
        | Outcome::Removed
        | Outcome::NeedsReboot
        | Outcome::LeftBehind
        | Outcome::RunnerFailed
        | Outcome::Stuck { leaves: false }
        | Outcome::Interrupted { ends: false } => Consequence::End,
        Outcome::Unfit if !dynamic => Consequence::Hold,
        _ if !dynamic => Consequence::End,
        Outcome::Done
        | Outcome::Interrupted { ends: true }
        | Outcome::Redeploy { .. }
        | Outcome::Stuck { leaves: true }
        | Outcome::CredentialsExpired => Consequence::Remove,
        Outcome::StartFailed | Outcome::GaveUp | Outcome::Unfit => Consequence::RemoveLater,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REDEPLOY: Outcome = Outcome::Redeploy { in_place: true };

    #[test]
    fn every_outcome_has_its_consequence_on_every_kind_of_host() {
        use Consequence::{End, Hold, RegisterAnew, Remove, RemoveLater};
        let redeploy = Consequence::Redeploy { in_place: true };
        // Outcome, and the consequence on a cloud's machine, for static, and for standalone.
        for (outcome, cloud, fixed, standalone) in [
            (Outcome::Done, Remove, End, End),
            (Outcome::Stopped, End, End, End),
            (Outcome::Held, End, End, End),
            (Outcome::Unfit, RemoveLater, Hold, Hold),
            (Outcome::Removed, End, End, End),
            (Outcome::StartFailed, RemoveLater, End, End),
            (Outcome::GaveUp, RemoveLater, End, End),
            (Outcome::CredentialsExpired, Remove, RegisterAnew, End),
            (Outcome::Interrupted { ends: true }, Remove, End, End),
            (Outcome::Interrupted { ends: false }, End, End, End),
            (REDEPLOY, Remove, redeploy, End),
            (Outcome::RunnerFailed, End, End, End),
            (Outcome::NeedsReboot, End, End, End),
            (Outcome::Stuck { leaves: true }, Remove, End, End),
            (Outcome::Stuck { leaves: false }, End, End, End),
            (Outcome::LeftBehind, End, End, End),
        ] {
            assert_eq!(consequence(outcome, true, false), cloud, "{outcome:?}, cloud");
            assert_eq!(consequence(outcome, false, true), fixed, "{outcome:?}, static");
            assert_eq!(consequence(outcome, false, false), standalone, "{outcome:?}, standalone");
        }
    }
}
