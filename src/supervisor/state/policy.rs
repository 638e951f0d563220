//! The settings on which decisions depend.

use std::time::Duration;

use crate::config::{AfterRun, HostSettings, OnReboot, OnUnfit, Restart, Supervision};
use crate::host::power;
use crate::retry::FailureBackoff;
use crate::worker::LaunchSpec;

/// The settings of the operator and of the worker's implementation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub restart: Restart,
    /// The number of allowed restarts after crashes.
    pub max_restarts: u32,
    /// A longer run resets the crash count.
    pub restart_window: Duration,
    /// The first back-off.
    pub backoff_initial: Duration,
    /// The longest back-off.
    pub backoff_max: Duration,
    /// The pause before a start that follows failed runs.
    pub failure_backoff: FailureBackoff,
    /// The number of failed runs in a row, of earlier processes and boots too, when the machine begins.
    pub failed_runs: u32,
    /// True if leftover processes are terminated.
    pub kill_descendants: bool,
    /// Time limit for a worker to finish its tasks.
    pub drain_timeout: Duration,
    /// A drain ends when no task has run for this long.
    pub drain_idle_timeout: Duration,
    /// Time limit for a worker to clean up before SIGTERM.
    pub stop_timeout: Duration,
    /// Time limit after SIGTERM before SIGKILL.
    pub kill_timeout: Duration,
    /// Time limit for the worker's hello.
    pub hello_timeout: Duration,
    /// The reaction to a worker's "reboot required".
    pub on_reboot: RebootPolicy,
    /// Time limit for a reboot to happen.
    pub reboot_timeout: Duration,
    /// The additional time limit for a reboot by the runner, because a force command follows `host.rebootCommand`;
    /// zero: none follows.
    pub force_reboot_time: Duration,
    /// The same for a shutdown by the runner.
    pub force_shutdown_time: Duration,
    /// The step after an end that nobody asked for. On a cloud's machine always [`AfterRun::Exit`].
    pub after_run: AfterRun,
    /// The reaction to an unfit worker.
    pub on_unfit: OnUnfit,
    /// A worker that has done so many tasks is drained.
    pub max_tasks: Option<u32>,
    /// A worker that has run for so long is drained.
    pub max_uptime: Option<Duration>,
    /// True if a worker's `shutdown` message shuts the host down.
    pub shutdown_host: bool,
    /// True if the host is removed with its worker (a cloud's instance): a worker that has ended is only restarted
    /// after a crash.
    pub dynamic: bool,
}

/// [`OnReboot`], with the worker's part of `auto` resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebootPolicy {
    /// The worker has already requested the reboot.
    Wait,
    /// Restart the worker in place; if that is impossible, as `Wait`.
    RestartIfPossible,
    /// Restart the worker in place; if that is impossible, an operator has to reboot the host.
    Restart,
    /// The runner reboots the host.
    Reboot,
    /// Others reboot the host.
    Exit,
}

impl Policy {
    /// Derives the policy from the runner configuration and the worker's implementation.
    pub fn new(
        supervision: &Supervision,
        spec: &LaunchSpec,
        host: &HostSettings,
        (dynamic, failed_runs): (bool, u32),
    ) -> Self {
        let on_reboot = match supervision.on_reboot {
            OnReboot::Auto if spec.disable_reboots => RebootPolicy::RestartIfPossible,
            OnReboot::Auto | OnReboot::Wait => RebootPolicy::Wait,
            OnReboot::Restart => RebootPolicy::Restart,
            OnReboot::Reboot => RebootPolicy::Reboot,
            OnReboot::Exit => RebootPolicy::Exit,
        };
        let force_time = |follows| {
            if follows { power::force_time(supervision.reboot_timeout) } else { Duration::ZERO }
        };
        Self {
            restart: supervision.restart,
            max_restarts: supervision.max_restarts,
            restart_window: supervision.restart_window,
            backoff_initial: supervision.backoff_initial,
            backoff_max: supervision.backoff_max,
            failure_backoff: supervision.failure_backoff,
            failed_runs,
            kill_descendants: supervision.kill_descendants,
            drain_timeout: supervision.drain_timeout,
            drain_idle_timeout: supervision.drain_idle_timeout,
            stop_timeout: supervision.stop_timeout,
            kill_timeout: supervision.kill_timeout,
            hello_timeout: spec.hello_timeout,
            on_reboot,
            reboot_timeout: supervision.reboot_timeout,
            force_reboot_time: force_time(host.force_reboot_command.is_some()),
            force_shutdown_time: force_time(host.force_shutdown_command.is_some()),
            after_run: if dynamic { AfterRun::Exit } else { supervision.after_run },
            on_unfit: supervision.on_unfit,
            max_tasks: supervision.max_tasks,
            max_uptime: supervision.max_uptime,
            shutdown_host: host.shutdown_static || dynamic,
            dynamic,
        }
    }
}
