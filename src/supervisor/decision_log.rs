//! Logs the supervisor's decisions: each [`Note`] in an operator's words.

use std::time::Duration;

use tracing::field::display;
use tracing::{error, info, warn};

use super::state::{Ladder, Note, Request};
use crate::event::{Cause, Exit, ExitClass, Strength, signal_name};
use crate::telemetry::status_board::{Circumstances, killed_for_memory};

/// Logs one note. `circumstances`: of the worker that the note is about, if it is alive or has just exited.
pub(super) fn tell(note: Note, circumstances: Circumstances) {
    match note {
        Note::Ending { pid, request, ladder } => ending(pid, request, ladder),
        Note::NoHello { waited } => warn!(name: "worker-hello-missing",
            waited = %span(waited),
            "worker has said no hello: it is treated as one that does not speak the protocol"
        ),
        Note::DrainIdle { idle } => warn!(name: "drain-escalated",
            idle = %span(idle),
            "worker was asked to finish its tasks, none is running, and yet it does not end: the drain becomes a stop"
        ),
        Note::DeadlineNear => {
            warn!(name: "drain-escalated",
                "worker has not finished its tasks, and the machine's end is near: the drain becomes a stop"
            );
        }
        Note::DrainTooLong { waited } => warn!(name: "drain-escalated",
            waited = %span(waited),
            "worker has not finished its tasks within supervision.drainTimeout: the drain becomes a stop"
        ),
        Note::StopTooLong { waited } => {
            warn!(name: "stop-escalated", waited = %span(waited), "worker has not ended within supervision.stopTimeout: sending SIGTERM");
        }
        Note::TermTooLong { waited } => {
            warn!(name: "stop-escalated", waited = %span(waited), "worker has not ended within supervision.killTimeout of SIGTERM (stopTimeout, where it could not be asked): sending SIGKILL");
        }
        Note::KillTooLong { pid } => {
            warn!(name: "worker-stuck",
                pid,
                "worker is still alive after SIGKILL, probably stuck in the kernel: sending SIGKILL again"
            );
        }
        Note::LeftoversKilled { waited } => {
            warn!(name: "leftovers-killed", waited = %span(waited), "processes that the worker left behind have not ended: sending SIGKILL");
        }
        Note::ShutdownAsked { granted: true } => {
            info!(name: "shutdown-requested", "worker asks for its host to be shut down: doing so");
        }
        Note::ShutdownAsked { granted: false } => info!(name: "shutdown-requested",
            "worker asks for its host to be shut down: not done on this host (host.shutdownStatic is false); waiting for the worker to exit"
        ),
        Note::WorkerStopped { pid, signal } => warn!(name: "worker-stopped",
            pid, signal = %signal_name(signal),
            "worker was stopped by a signal: continuing it with SIGCONT, once"
        ),
        Note::WorkerLeftStopped { pid, signal } => left_stopped(pid, signal),
        other => after_exit(other, circumstances),
    }
}

/// The remedy depends on the signal.
fn left_stopped(pid: u32, signal: i32) {
    let (name, command) = (signal_name(signal), format!("kill -CONT -- -{pid}"));
    if matches!(signal, libc::SIGTTIN | libc::SIGTTOU) {
        warn!(name: "worker-stopped",
            pid, signal = %name, command,
            "worker was stopped again because it uses the terminal in the background, and stays so: bring start-worker to the foreground (fg), then run the command"
        );
    } else {
        warn!(name: "worker-stopped",
            pid, signal = %name, command,
            "worker was stopped by a signal again within a minute, and stays so: find out what stops it, then run the command"
        );
    }
}

fn exited(exit: Exit, ran: Duration, expected: bool, circumstances: Circumstances) {
    let Circumstances { pid, dumped, cpu, oom_kills } = circumstances;
    let (Exit { status, class, meaning }, ran) = (exit, display(span(ran)));
    let cpu = cpu.map(span).map(display);
    let core = pid.filter(|_| dumped).map(|pid| format!("coredumpctl info {pid}"));
    let dumped = dumped.then_some(true);
    if expected || matches!(class, ExitClass::Done | ExitClass::Idle | ExitClass::Reboot) {
        info!(name: "worker-exited", pid, %status, meaning, ran, cpu, dumped, core, "worker exited");
    } else {
        warn!(name: "worker-exited", pid, %status, meaning, ran, cpu, dumped, core, "worker exited");
    }
    if oom_kills > 0 {
        warn!(name: "worker-out-of-memory", why = killed_for_memory(oom_kills), "memory ran out while the worker ran");
    }
}

fn after_exit(note: Note, circumstances: Circumstances) {
    match note {
        Note::Exited { exit, ran, expected } => exited(exit, ran, expected, circumstances),
        Note::BadConfiguration => {
            error!(name: "worker-configuration-refused",
                "worker cannot work with its configuration: not started again; see its last lines and worker.configPath"
            );
        }
        Note::FailurePause { wait, failed_runs } => warn!(
            wait = %span(wait), failed_runs,
            "worker found this host unfit for tasks: pausing before the next start (supervision.failureBackoff); `start-worker resume` starts the worker now"
        ),
        Note::TooManyCrashes { crashes, allowed: 0, .. } => {
            error!(name: "worker-gave-up", crashes, "worker crashed, and supervision allows no restart: giving up");
        }
        Note::TooManyCrashes { crashes, allowed, window } => error!(name: "worker-gave-up",
            crashes, max_restarts = allowed, restart_window = %span(window),
            "worker crashed too often: giving up"
        ),
        Note::CannotRestartInPlace => error!(name: "worker-needs-reboot",
            "worker cannot be started again without a reboot (worker.restartInPlace says otherwise where that is wrong)"
        ),
        Note::Restarting { wait, crashes: 0, .. } => {
            info!(name: "worker-restarting", wait = %span(wait), "worker is started again (supervision.restart is always)");
        }
        Note::Restarting { wait, crashes, allowed } => {
            info!(name: "worker-restarting", wait = %span(wait), crashes, max_restarts = allowed, "worker is started again after a crash");
        }
        Note::RestartWithCredentials => {
            info!(name: "worker-restarting", "worker is started again with its new credentials");
        }
        Note::RestartInsteadOfReboot => {
            info!(name: "worker-restarting", "worker wants a reboot: started again in place instead");
        }
        Note::AwaitingReboot { timeout } => {
            info!(name: "reboot-awaited", timeout = %span(timeout), "worker wants a reboot: waiting for the host to go down");
        }
        Note::AfterRun { powers_off } => {
            let power = if powers_off { "shutdown" } else { "reboot" };
            info!(
                power,
                "worker has ended and is not started again: the host goes down (supervision.afterRun)"
            );
        }
        Note::RebootDidNotCome { waited, powers_off: true, .. } => error!(
            waited = %span(waited),
            "the shutdown has not come within supervision.rebootTimeout: shut the host down by hand"
        ),
        Note::RebootDidNotCome { waited, in_place: true, .. } => {
            warn!(name: "reboot-overdue", waited = %span(waited), "the reboot has not come within supervision.rebootTimeout: starting the worker again in place");
        }
        Note::RebootDidNotCome { waited, in_place: false, .. } => error!(name: "reboot-overdue",
            waited = %span(waited),
            "the reboot has not come within supervision.rebootTimeout, and the worker cannot go on without one: reboot the host"
        ),
        _ => {}
    }
}

fn ending(pid: u32, request: Request, ladder: Ladder) {
    let cause = request.cause;
    match (request.strength, ladder) {
        (Strength::Drain, Ladder::Told { .. }) => {
            info!(name: "drain-requested", pid, %cause, "asked the worker to finish its tasks and exit");
        }
        (Strength::Drain, Ladder::AwaitingHello(_)) => {
            info!(name: "drain-requested", pid, %cause, "asking the worker to finish its tasks as soon as it has said hello");
        }
        (Strength::Drain, _) => info!(name: "drain-requested",
            pid, %cause,
            "worker cannot be asked to finish its tasks (no graceful-termination): waiting for it to end by itself"
        ),
        (Strength::Stop, Ladder::Told { .. }) => {
            info!(name: "stop-requested", pid, %cause, "asked the worker to stop at once");
        }
        (Strength::Stop, Ladder::AwaitingHello(_)) => {
            info!(name: "stop-requested", pid, %cause, "asking the worker to stop as soon as it has said hello");
        }
        (Strength::Stop, _) => {
            info!(name: "stop-requested", pid, %cause, "worker cannot be asked to stop (no graceful-termination): sent SIGTERM");
        }
        (Strength::Kill, _) if cause == Cause::Operator => {
            warn!(name: "kill-requested", pid, "second request to stop: killing the worker and all its processes");
        }
        (Strength::Kill, _) => {
            warn!(name: "kill-requested", pid, %cause, "killing the worker and all its processes");
        }
    }
}

/// Formats a duration with a precision of milliseconds: `1m 30s`.
pub(super) fn span(duration: Duration) -> humantime::FormattedDuration {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis))
}
