//! Finds the place in the kernel where a worker that survives SIGKILL is stuck.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use tracing::error;

use super::Supervisor;
use super::child::Child;
use super::cleanup::Cleanup;
use crate::event::{Event, Exit};
use crate::host::helper::Helpers;

impl Supervisor<'_> {
    /// Gives up on a worker that cannot be killed. Its other processes were killed with it as far as possible.
    pub(super) fn give_up(&mut self) -> Option<Event> {
        if let Some(pid) = self.child.as_ref().map(Child::pid) {
            let stuck = Stuck::of(pid, &self.descendants.helpers());
            error!(name: "worker-stuck",
                pid, state = %stuck.state, waits_in = %stuck,
                "worker cannot be killed: it is stuck in the kernel, often on a disk or a network file system that does not answer; ending without it, and the host needs a reboot"
            );
        }
        self.last_exit = Some(Exit::STUCK);
        self.cleanup = Some(Cleanup::begin(true, false, self));
        self.advance_clearing()
    }
}

/// The state of a worker that does not die, as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stuck {
    /// The state letter of `/proc/PID/status`: `D` in an uninterruptible wait.
    pub(super) state: char,
    /// The kernel function in which it waits, if this process may read it.
    pub(super) function: Option<String>,
}

impl Stuck {
    /// Examines a process. Its main thread may have ended while another one is stuck.
    pub(super) fn of(pid: u32, helpers: &Helpers) -> Self {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let threads = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
        let threads: Vec<PathBuf> = threads.map(|thread| thread.path()).collect();
        let place = threads.into_iter().find(|thread| state(thread) == Some('D')).unwrap_or(process);
        let state = state(&place).unwrap_or('?');
        // Hangs if the worker is stuck while executing a program.
        Self { state, function: helpers.inspect(move || function(&place)).flatten() }
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.function.as_deref().unwrap_or("unknown"))
    }
}

fn state(place: &Path) -> Option<char> {
    state_in(&fs::read_to_string(place.join("status")).ok()?)
}

/// `State:\tD (disk sleep)`
fn state_in(status: &str) -> Option<char> {
    let mut lines = status.lines();
    lines.find_map(|line| line.strip_prefix("State:"))?.trim_start().chars().next()
}

/// Reads `wchan` first, because this process may read it more often; it is `0` if the process does not wait.
fn function(place: &Path) -> Option<String> {
    let wchan = fs::read_to_string(place.join("wchan")).ok();
    let wchan = wchan.map(|name| name.trim().to_owned()).filter(|name| !matches!(name.as_str(), "" | "0"));
    wchan.or_else(|| first_of(&fs::read_to_string(place.join("stack")).ok()?))
}

/// `[<0>] request_wait_answer+0x151/0x210`
fn first_of(stack: &str) -> Option<String> {
    let function = stack.lines().next()?.rsplit(' ').next()?;
    let name = function.split_once('+').map_or(function, |(name, _)| name);
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_the_letter_of_its_line() {
        assert_eq!(state_in("Name:\tx\nState:\tD (disk sleep)\nTgid:\t1\n"), Some('D'));
        assert_eq!(state_in("Name:\tState: D\n"), None);
        assert_eq!(state_in(""), None);
    }

    #[test]
    fn a_stack_begins_with_the_innermost_function() {
        let stack = "[<0>] request_wait_answer+0x151/0x210\n[<0>] __fuse_simple_request+0x120/0x330\n";
        assert_eq!(first_of(stack).as_deref(), Some("request_wait_answer"));
        assert_eq!(first_of(""), None);
    }

    #[tokio::test]
    async fn this_process_has_a_state_and_one_that_does_not_exist_has_none() {
        assert!("RSD".contains(Stuck::of(std::process::id(), &Helpers::default()).state));
        assert_eq!(Stuck::of(u32::MAX, &Helpers::default()), Stuck { state: '?', function: None });
    }
}
