//! The settings that decisions depend on.

use std::time::Duration;

use crate::config::{HostSettings, OnReboot, Restart, Supervision};
use crate::host::power;
use crate::worker::LaunchSpec;

/// What the operator and the worker's implementation have settled beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// When to start a worker again.
    pub restart: Restart,
    /// How many restarts after crashes are allowed.
    pub max_restarts: u32,
    /// A run longer than this makes earlier crashes forgotten.
    pub restart_window: Duration,
    /// The first back-off.
    pub backoff_initial: Duration,
    /// The longest back-off.
    pub backoff_max: Duration,
    /// Whether what a worker leaves behind is ended.
    pub kill_descendants: bool,
    /// How long a worker may finish its tasks.
    pub drain_timeout: Duration,
    /// A drain ends when no task has run for so long.
    pub drain_idle_timeout: Duration,
    /// How long a worker may clean up before SIGTERM.
    pub stop_timeout: Duration,
    /// How long SIGTERM may take before SIGKILL.
    pub kill_timeout: Duration,
    /// How long a worker may take to say hello.
    pub hello_timeout: Duration,
    /// What a worker's "reboot required" means.
    pub on_reboot: RebootPolicy,
    /// How long a reboot may take to come.
    pub reboot_timeout: Duration,
    /// The additional time that a reboot by the runner may take, because a force command follows
    /// `host.rebootCommand`; zero: none does.
    pub force_reboot_time: Duration,
    /// Whether a worker's `shutdown` message shuts the host down.
    pub shutdown_host: bool,
    /// Whether the host goes with its worker (a cloud's instance): what has ended is not started again on it, but for
    /// a crash.
    pub dynamic: bool,
}

/// [`OnReboot`], with the worker's part of `auto` settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebootPolicy {
    /// The worker has asked the operating system already.
    Wait,
    /// Start the worker again in place; where it cannot be, `Wait`.
    RestartIfPossible,
    /// Start the worker again in place; where it cannot be, somebody has to reboot the host.
    Restart,
    /// The runner reboots the host.
    Reboot,
    /// Somebody else reboots the host.
    Exit,
}

impl Policy {
    /// From the runner configuration and what the worker's implementation knows.
    pub fn new(supervision: &Supervision, spec: &LaunchSpec, host: &HostSettings, dynamic: bool) -> Self {
        let on_reboot = match supervision.on_reboot {
            OnReboot::Auto if spec.disable_reboots => RebootPolicy::RestartIfPossible,
            OnReboot::Auto | OnReboot::Wait => RebootPolicy::Wait,
            OnReboot::Restart => RebootPolicy::Restart,
            OnReboot::Reboot => RebootPolicy::Reboot,
            OnReboot::Exit => RebootPolicy::Exit,
        };
        Self {
            restart: supervision.restart,
            max_restarts: supervision.max_restarts,
            restart_window: supervision.restart_window,
            backoff_initial: supervision.backoff_initial,
            backoff_max: supervision.backoff_max,
            kill_descendants: supervision.kill_descendants,
            drain_timeout: supervision.drain_timeout,
            drain_idle_timeout: supervision.drain_idle_timeout,
            stop_timeout: supervision.stop_timeout,
            kill_timeout: supervision.kill_timeout,
            hello_timeout: spec.hello_timeout,
            on_reboot,
            reboot_timeout: supervision.reboot_timeout,
            force_reboot_time: match &host.force_reboot_command {
                Some(_) => power::force_time(supervision.reboot_timeout),
                None => Duration::ZERO,
            },
            shutdown_host: host.shutdown_static || dynamic,
            dynamic,
        }
    }
}
