//! Cleans up after the worker exits: terminates leftover processes, drains its output, and, when a restart is possible,
//! checks whether the worker can restart without a reboot.

use std::collections::HashSet;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::descendants::{Descendants, Survey};
use crate::host::processes::{Id, Process};

/// Time limit for the rest of a dead worker's output. A stalled log delays it; continuing loses nothing.
const OUTPUT_TIME: Duration = Duration::from_secs(2);

/// Interval at which leftover processes are checked, however many of them die meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Interval at which SIGKILL is repeated: remaining processes fork faster than they are found.
const KILL_AGAIN: Duration = Duration::from_millis(40);

/// Maximum number of leftover processes named in a log line.
const NAMED: usize = 20;

/// The cleanup after one worker.
#[derive(Debug)]
pub(super) struct Cleanup {
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Leftover processes of the worker are alive.
    Leftovers(Leftovers),
    /// The worker's output is being read to its end.
    Output { until: Instant },
    /// `<program> --version` is running.
    Version { answer: JoinHandle<bool>, forget: CancellationToken },
    /// Complete, with the answer whether the worker can be restarted in place.
    Settled { in_place: bool },
}

/// The termination of leftover processes.
#[derive(Debug)]
struct Leftovers {
    /// True to send SIGTERM first; false to send only SIGKILL.
    terminate: bool,
    /// The processes that got SIGTERM, each once, including those forked meanwhile.
    asked: HashSet<Id>,
    /// True if the worker's process group got SIGTERM, because its processes cannot be seen.
    asked_group: bool,
    killed: bool,
    look_at: Instant,
    kill_at: Instant,
}

impl Leftovers {
    fn new(terminate: bool) -> Self {
        let now = Instant::now();
        let (asked, asked_group, killed) = (HashSet::new(), false, false);
        Self { terminate, asked, asked_group, killed, look_at: now + LOOK_AGAIN, kill_at: now }
    }

    /// Sends SIGTERM to the processes that have not got it yet.
    fn ask(&mut self, living: Option<&[Process]>, descendants: &Descendants) {
        if !self.terminate || self.killed {
            return;
        }
        let Some(living) = living else {
            if !std::mem::replace(&mut self.asked_group, true) {
                descendants.terminate(None);
                info!(name: "leftovers-terminated", "worker may have left processes behind: sent its process group SIGTERM");
            }
            return;
        };
        let new: Vec<Process> =
            living.iter().filter(|process| !self.asked.contains(&process.id)).cloned().collect();
        if new.is_empty() {
            return;
        }
        descendants.terminate(Some(&new));
        // A tree that forks without end has more of them at each check.
        if self.asked.is_empty() {
            info!(name: "leftovers-terminated", processes = new.len(), "worker left processes behind: sent them SIGTERM");
        } else {
            debug!(processes = new.len(), "what the worker left has started processes: sent them SIGTERM");
        }
        self.asked.extend(new.iter().map(|process| process.id));
    }

    /// Sends SIGKILL to the remaining processes.
    fn kill(&mut self, descendants: &mut Descendants) {
        self.killed = true;
        descendants.kill();
        self.kill_at = Instant::now() + KILL_AGAIN;
    }

    /// The time of the next step.
    fn next(&self) -> Instant {
        if self.killed { self.look_at.min(self.kill_at) } else { self.look_at }
    }

    /// Makes the next step. Returns true if no leftover process remains.
    fn advance(&mut self, descendants: &mut Descendants) -> bool {
        if descendants.are_gone() {
            return true;
        }
        let now = Instant::now();
        if self.killed && now >= self.kill_at {
            self.kill(descendants);
        }
        if now < self.look_at {
            return false;
        }
        self.look_at = now + LOOK_AGAIN;
        match descendants.survey(false) {
            Survey::Gone => return true,
            Survey::Living(living) => self.ask(Some(&living), descendants),
            Survey::Unseen => self.ask(None, descendants),
            Survey::Undecided => {}
        }
        false
    }
}

/// The inputs of [`Cleanup::advance`], and the actions that it may request.
pub(super) trait Surroundings {
    /// The worker's descendants.
    fn descendants(&mut self) -> &mut Descendants;
    /// Reads the worker's output to its end.
    fn finish_output(&self);
    /// Returns true once the output has been read.
    fn output_ended(&self) -> bool;
    /// Returns whether the worker can be restarted in place, if that is known or irrelevant now.
    fn in_place(&self) -> Option<bool>;
    /// Runs the worker's program for its version, until the token is cancelled.
    fn ask_version(&self, forget: CancellationToken) -> JoinHandle<bool>;
}

impl Cleanup {
    /// Begins the cleanup. `leave`: do not touch leftover processes; `terminate`: send them SIGTERM.
    pub(super) fn begin(leave: bool, terminate: bool, surroundings: &mut impl Surroundings) -> Self {
        let survey = if leave { Survey::Gone } else { surroundings.descendants().survey(true) };
        let mut leftovers = Leftovers::new(terminate);
        match survey {
            Survey::Gone => {
                surroundings.finish_output();
                return Self { phase: Phase::Output { until: Instant::now() + OUTPUT_TIME } };
            }
            Survey::Living(living) => leftovers.ask(Some(&living), surroundings.descendants()),
            Survey::Unseen => leftovers.ask(None, surroundings.descendants()),
            Survey::Undecided => {}
        }
        Self { phase: Phase::Leftovers(leftovers) }
    }

    /// Returns true while leftover processes are alive.
    pub(super) fn has_leftovers(&self) -> bool {
        matches!(self.phase, Phase::Leftovers(_))
    }

    /// Sends SIGKILL to leftover processes.
    pub(super) fn kill(&mut self, surroundings: &mut impl Surroundings) {
        if let Phase::Leftovers(leftovers) = &mut self.phase {
            leftovers.kill(surroundings.descendants());
        }
    }

    /// Gives up on leftover processes.
    pub(super) fn abandon(&mut self, surroundings: &mut impl Surroundings) {
        if !matches!(self.phase, Phase::Leftovers(_)) {
            return;
        }
        match surroundings.descendants().survey(true) {
            Survey::Gone | Survey::Undecided => {}
            Survey::Living(living) => {
                let named: Vec<String> = living.iter().take(NAMED).map(ToString::to_string).collect();
                error!(name: "leftovers-survived",
                    count = living.len(), processes = %named.join(", "),
                    "processes that the worker left behind cannot be killed: going on without"
                );
            }
            Survey::Unseen => error!(name: "leftovers-unknown",
                "processes that the worker left behind may live, and cannot be seen: going on without; look for them with ps"
            ),
        }
        surroundings.finish_output();
        self.phase = Phase::Output { until: Instant::now() + OUTPUT_TIME };
    }

    /// Cancels the check of the worker's version, whose result has become irrelevant, and kills its process.
    pub(super) fn forget_version(&self) {
        if let Phase::Version { forget, .. } = &self.phase {
            forget.cancel();
        }
    }

    /// Waits until [`Cleanup::advance`] can make progress. Cancel-safe.
    pub(super) async fn tick(&mut self) {
        match &mut self.phase {
            Phase::Leftovers(leftovers) => tokio::time::sleep_until(leftovers.next()).await,
            Phase::Output { until } => tokio::time::sleep_until(*until).await,
            Phase::Version { answer, .. } => {
                let in_place = answer.await.unwrap_or(false);
                self.phase = Phase::Settled { in_place };
            }
            Phase::Settled { .. } => {}
        }
    }

    /// Makes all possible progress. Returns `Some` when the cleanup is complete, with the answer whether the worker can
    /// be restarted in place.
    pub(super) fn advance(&mut self, surroundings: &mut impl Surroundings) -> Option<bool> {
        loop {
            match &mut self.phase {
                Phase::Leftovers(leftovers) => {
                    if !leftovers.advance(surroundings.descendants()) {
                        return None;
                    }
                    debug!("nothing of the worker lives any more");
                    surroundings.finish_output();
                    self.phase = Phase::Output { until: Instant::now() + OUTPUT_TIME };
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
                    self.phase = if let Some(in_place) = surroundings.in_place() {
                        Phase::Settled { in_place }
                    } else {
                        let forget = CancellationToken::new();
                        Phase::Version { answer: surroundings.ask_version(forget.clone()), forget }
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

    use super::super::descendants::Strangers;
    use super::*;
    use crate::host::helper::Helpers;
    use crate::host::processes;

    fn sleeper() -> (Child, Process) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = processes::look_at(i32::try_from(child.id()).unwrap()).unwrap().unwrap();
        (child, process)
    }

    async fn descendants() -> Descendants {
        Descendants::new(false, &Strangers::default(), Helpers::default()).await
    }

    #[tokio::test]
    async fn what_appears_while_others_are_asked_to_end_is_asked_too() {
        let descendants = descendants().await;
        let mut leftovers = Leftovers::new(true);
        let [(mut first, one), (mut second, two)] = [sleeper(), sleeper()];
        leftovers.ask(Some(std::slice::from_ref(&one)), &descendants);
        assert_eq!(first.wait().unwrap().signal(), Some(libc::SIGTERM));
        leftovers.ask(Some(std::slice::from_ref(&two)), &descendants);
        assert_eq!(second.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(leftovers.asked, HashSet::from([one.id, two.id]));
    }

    #[tokio::test]
    async fn what_is_left_alone_or_killed_is_not_asked() {
        let descendants = descendants().await;
        let own = processes::look_at(nix::unistd::getpid().as_raw()).unwrap().unwrap();
        let mut left_alone = Leftovers::new(false);
        let mut killed = Leftovers { killed: true, ..Leftovers::new(true) };
        for leftovers in [&mut left_alone, &mut killed] {
            leftovers.ask(Some(std::slice::from_ref(&own)), &descendants);
            assert!(leftovers.asked.is_empty());
        }
    }
}
