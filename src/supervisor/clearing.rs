//! After a worker's end: what it left behind is ended, its output is read to the end, and then it is asked, where that
//! matters, whether it can be started again in place.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::descendants::Descendants;

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
    Leftovers { killed: bool },
    /// Its output is being read to the end.
    Output { until: Instant },
    /// `<program> --version` is being asked.
    Version { answer: JoinHandle<bool> },
    /// Settled: whether it can be started again in place.
    Settled { in_place: bool },
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
        if leave || descendants.living().is_empty() {
            surroundings.finish_output();
            return Self { phase: Phase::Output { until: Instant::now() + OUTPUT_TIME } };
        }
        if terminate {
            let processes = descendants.signal(Signal::SIGTERM);
            if processes > 0 {
                info!(processes, "worker left processes behind: sent them SIGTERM");
            }
        }
        Self { phase: Phase::Leftovers { killed: false } }
    }

    /// Whether processes of the worker still live.
    pub(super) fn has_leftovers(&self) -> bool {
        matches!(self.phase, Phase::Leftovers { .. })
    }

    /// SIGKILL to what is left.
    pub(super) fn kill(&mut self, surroundings: &impl Surroundings) {
        if let Phase::Leftovers { killed } = &mut self.phase {
            *killed = true;
            surroundings.descendants().kill();
        }
    }

    /// Waits no longer for what is left.
    pub(super) fn abandon(&mut self, surroundings: &impl Surroundings) {
        if matches!(self.phase, Phase::Leftovers { .. }) {
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
            Phase::Leftovers { .. } => tokio::time::sleep(LOOK_AGAIN).await,
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
                Phase::Leftovers { killed } => {
                    let descendants = surroundings.descendants();
                    if descendants.living().is_empty() {
                        debug!("nothing of the worker lives any more");
                        surroundings.finish_output();
                        self.phase = Phase::Output { until: Instant::now() + OUTPUT_TIME };
                        continue;
                    }
                    if *killed {
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
