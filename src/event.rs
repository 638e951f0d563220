//! The vocabulary of supervision: what siblings send, the supervisor decides on, and observers show.

use std::fmt;

/// How a worker's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It exited by itself, with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// What an exit means to the worker's implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExitClass {
    /// It has done what it was started for.
    Done,
    /// Something told it to stop: its own interruption exit, or SIGTERM or SIGINT.
    Interrupted,
    /// It wants the host to reboot before it goes on.
    Reboot,
    /// It had nothing to do for too long.
    Idle,
    /// Its configuration is unusable: starting it again will not help.
    BadConfiguration,
    /// All else.
    Crash,
}

/// An exit with its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exit {
    /// What the operating system says.
    pub status: ExitStatus,
    /// What the supervisor makes of it.
    pub class: ExitClass,
    /// What it means, in words for the log: `reboot required`.
    pub meaning: &'static str,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.meaning)
    }
}
