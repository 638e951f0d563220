//! What the end of a supervised run means for its machine: cause × exit has become an outcome; here it has consequences.

use crate::event::Outcome;

/// What is to be done once no worker runs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// The runner ends; the registration stays, the worker may be started again.
    End,
    /// The machine leaves worker-manager and goes away.
    Remove,
    /// The same, after `host.startFailureDelay`: what keeps a pool's workers from running must not become a storm of
    /// boots and removals.
    RemoveLater,
    /// The worker registers anew, for as long as it takes, and is started again.
    RegisterAnew,
    /// The worker registers anew; when that has succeeded it is started with what has come of it, else as it was.
    Redeploy {
        /// Whether it can be started again without a boot between.
        in_place: bool,
    },
}

/// The tables of docs/operations.md, "What happens when the worker ends". `dynamic`: a cloud's machine, which is replaced. `registers`: the worker may register as
/// often as it likes.
pub fn consequence(outcome: Outcome, dynamic: bool, registers: bool) -> Consequence {
    match outcome {
        Outcome::Redeploy { in_place } if registers => Consequence::Redeploy { in_place },
        Outcome::CredentialsExpired if registers => Consequence::RegisterAnew,
        // A removed machine is removed; a host that waits for a boot, or was told to stop, is not.
        Outcome::Stopped
        | Outcome::Held
        | Outcome::Removed
        | Outcome::NeedsReboot
        | Outcome::LeftBehind
        | Outcome::RunnerFailed
        | Outcome::Stuck { leaves: false }
        | Outcome::Interrupted { ends: false } => Consequence::End,
        _ if !dynamic => Consequence::End,
        Outcome::Done
        | Outcome::Interrupted { ends: true }
        | Outcome::Redeploy { .. }
        | Outcome::Stuck { leaves: true }
        | Outcome::CredentialsExpired => Consequence::Remove,
        Outcome::StartFailed | Outcome::GaveUp => Consequence::RemoveLater,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REDEPLOY: Outcome = Outcome::Redeploy { in_place: true };

    #[test]
    fn every_outcome_has_its_consequence_on_every_kind_of_host() {
        use Consequence::{End, RegisterAnew, Remove, RemoveLater};
        let redeploy = Consequence::Redeploy { in_place: true };
        // Outcome, on a cloud's machine, static, standalone.
        for (outcome, cloud, fixed, standalone) in [
            (Outcome::Done, Remove, End, End),
            (Outcome::Stopped, End, End, End),
            (Outcome::Held, End, End, End),
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
