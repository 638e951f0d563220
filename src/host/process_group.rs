//! A helper's process group, which is killed when nobody waits for the helper any longer.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Kills a process group when it is dropped. The helper must have been started in a group of its own.
#[derive(Debug)]
pub struct KillOnDrop(Option<Pid>);

impl KillOnDrop {
    /// For the group of the helper with this process id.
    pub fn new(leader: Option<u32>) -> Self {
        Self(leader.and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw))
    }

    /// Lets what still runs in the group go on: the helper has ended by itself.
    pub fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // After the helper's own end there is normally nothing left: that error says nothing.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}
