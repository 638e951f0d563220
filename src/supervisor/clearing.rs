//! After a worker's end: what it left behind is ended, its output is read to the end, and then it is asked, where that
//! matters, whether it can be started again in place.

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::descendants::{Descendants, signal};

/// How long the rest of a dead worker's output is waited for. A stalled log delays it; nothing is lost by going on.
const OUTPUT_TIME: Duration = Duration::from_secs(2);

/// Orphans announce their death by SIGCHLD; this is for what does not.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How far the end of one worker has come.
#[derive(Debug)]
pub(super) struct Clearing {
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Processes that the worker left behind still live.
    Leftovers(Leftovers),
    /// Its output is being read to the end.
    Output { until: Instant },
    /// `<program> --version` is being asked.
    Version { answer: JoinHandle<bool> },
    /// Settled: whether it can be started again in place.
    Settled { in_place: bool },
}

/// What was done about what the worker left.
#[derive(Debug, Default)]
struct Leftovers {
    /// Whether it gets SIGTERM; else it is left to SIGKILL.
    terminate: bool,
    /// Who got it: each once, also one that was forked while the others got it.
    asked: HashSet<Pid>,
    killed: bool,
}

impl Leftovers {
    /// SIGTERM to whoever did not have it.
    fn ask(&mut self, living: &[Pid]) {
        if !self.terminate || self.killed {
            return;
        }
        let new: Vec<Pid> = living.iter().copied().filter(|pid| self.asked.insert(*pid)).collect();
        if !new.is_empty() {
            signal(&new, Signal::SIGTERM);
            info!(processes = new.len(), "worker left processes behind: sent them SIGTERM");
        }
    }
}

/// What [`Clearing::advance`] needs to know, and may ask for.
pub(super) trait Surroundings {
    /// The runner's descendants.
    fn descendants(&self) -> &Descendants;
    /// The worker's output is to be read to its end.
    fn finish_output(&self);
    /// Whether that has been done.
    fn output_ended(&self) -> bool;
    /// Whether the worker can be started again in place, where that is known or does not matter now.
    fn in_place(&self) -> Option<bool>;
    /// Asks the worker's program.
    fn ask_version(&self) -> JoinHandle<bool>;
}

impl Clearing {
    /// Begins; `leave`: what the worker left is not touched; `terminate`: it gets SIGTERM.
    pub(super) fn begin(leave: bool, terminate: bool, surroundings: &impl Surroundings) -> Self {
        let descendants = surroundings.descendants();
        let living = if leave { Vec::new() } else { descendants.living() };
        if living.is_empty() {
            surroundings.finish_output();
            return Self { phase: Phase::Output { until: Instant::now() + OUTPUT_TIME } };
        }
        let mut leftovers = Leftovers { terminate, ..Leftovers::default() };
        leftovers.ask(&living);
        Self { phase: Phase::Leftovers(leftovers) }
    }

    /// Whether processes of the worker still live.
    pub(super) fn has_leftovers(&self) -> bool {
        matches!(self.phase, Phase::Leftovers(_))
    }

    /// SIGKILL to what is left.
    pub(super) fn kill(&mut self, surroundings: &impl Surroundings) {
        if let Phase::Leftovers(leftovers) = &mut self.phase {
            leftovers.killed = true;
            surroundings.descendants().kill();
        }
    }

    /// Waits no longer for what is left.
    pub(super) fn abandon(&mut self, surroundings: &impl Surroundings) {
        if matches!(self.phase, Phase::Leftovers(_)) {
            let living = surroundings.descendants().living();
            let pids: Vec<String> = living.iter().map(ToString::to_string).collect();
            error!(pids = %pids.join(" "), "processes that the worker left behind cannot be killed: going on without");
            surroundings.finish_output();
            self.phase = Phase::Output { until: Instant::now() + OUTPUT_TIME };
        }
    }

    /// Waits until [`Clearing::advance`] is worth calling. May be dropped and called again.
    pub(super) async fn tick(&mut self) {
        match &mut self.phase {
            Phase::Leftovers(_) => tokio::time::sleep(LOOK_AGAIN).await,
            Phase::Output { until } => tokio::time::sleep_until(*until).await,
            Phase::Version { answer } => {
                let in_place = answer.await.unwrap_or(false);
                self.phase = Phase::Settled { in_place };
            }
            Phase::Settled { .. } => {}
        }
    }

    /// Goes as far as is possible now; `Some` when all is settled, with whether the worker can be started again in
    /// place.
    pub(super) fn advance(&mut self, surroundings: &impl Surroundings) -> Option<bool> {
        loop {
            match &mut self.phase {
                Phase::Leftovers(leftovers) => {
                    let descendants = surroundings.descendants();
                    let living = descendants.living();
                    if living.is_empty() {
                        debug!("nothing of the worker lives any more");
                        surroundings.finish_output();
                        self.phase = Phase::Output { until: Instant::now() + OUTPUT_TIME };
                        continue;
                    }
                    leftovers.ask(&living);
                    if leftovers.killed {
                        descendants.kill();
                    }
                    return None;
                }
                Phase::Output { until } => {
                    if !surroundings.output_ended() {
                        if Instant::now() < *until {
                            return None;
                        }
                        warn!(
                            "the worker's last output cannot be written yet, for the log is stalled: going on"
                        );
                    }
                    self.phase = match surroundings.in_place() {
                        Some(in_place) => Phase::Settled { in_place },
                        None => Phase::Version { answer: surroundings.ask_version() },
                    };
                }
                Phase::Version { .. } => return None,
                Phase::Settled { in_place } => return Some(*in_place),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> (Child, Pid) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        (child, pid)
    }

    #[test]
    fn what_appears_while_others_are_asked_to_end_is_asked_too() {
        let mut leftovers = Leftovers { terminate: true, ..Leftovers::default() };
        let [(mut first, one), (mut second, two)] = [sleeper(), sleeper()];
        leftovers.ask(&[one]);
        assert_eq!(first.wait().unwrap().signal(), Some(libc::SIGTERM));
        leftovers.ask(&[two]);
        assert_eq!(second.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(leftovers.asked, HashSet::from([one, two]));
    }

    #[test]
    fn what_is_left_alone_or_killed_is_not_asked() {
        let mut left_alone = Leftovers::default();
        let mut killed = Leftovers { terminate: true, killed: true, ..Leftovers::default() };
        for leftovers in [&mut left_alone, &mut killed] {
            leftovers.ask(&[Pid::this()]);
            assert!(leftovers.asked.is_empty());
        }
    }
}
