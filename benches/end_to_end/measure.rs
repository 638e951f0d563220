//! Clocks, the resource usage of processes, and medians.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

use crate::Result;

/// The time of `CLOCK_MONOTONIC`, which is the same for all processes.
pub(crate) fn now() -> Duration {
    ClockId::CLOCK_MONOTONIC.now().map_or(Duration::ZERO, Duration::from)
}

/// Lets time pass.
#[expect(clippy::disallowed_methods, reason = "nothing is supervised here; what is measured needs peace")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The resource usage of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// From before its start to its end, in seconds.
    pub(crate) wall: f64,
    /// Processor time of all its threads, its children left out, in seconds.
    pub(crate) cpu: f64,
}

/// A process that is being measured.
pub(crate) struct Running {
    pub(crate) child: Child,
    began: Instant,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        Self::start_since(Instant::now(), command)
    }

    /// Starts a process whose work began earlier.
    pub(crate) fn start_since(began: Instant, command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_owned();
        let child =
            command.spawn().map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        Ok(Self { child, began })
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// A file of `/proc/PID`.
    pub(crate) fn proc_file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    /// Waits for its end, which must be a success.
    pub(crate) fn end(self) -> Result<Cost> {
        self.end_with(0)
    }

    /// Waits for its end with this exit code.
    pub(crate) fn end_with(mut self, code: i32) -> Result<Cost> {
        // Its clock can be read until it is reaped; `wait4` would add the costs of its children.
        waitid(Id::Pid(self.pid()), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        let wall = self.began.elapsed().as_secs_f64();
        let cpu = Duration::from(clock_getcpuclockid(self.pid())?.now()?).as_secs_f64();
        let status = self.child.wait()?;
        if status.code() != Some(code) {
            return Err(format!("ended with {status}, expected exit code {code}").into());
        }
        Ok(Cost { wall, cpu })
    }
}

/// Starts a process and waits for its end.
pub(crate) fn run(command: &mut Command) -> Result<Cost> {
    Running::start(command)?.end()
}

/// Measures two things in turns, after one round that does not count.
pub(crate) fn in_turns<T>(
    rounds: usize,
    mut ours: impl FnMut() -> Result<T>,
    mut reference: impl FnMut() -> Result<T>,
) -> Result<Vec<(T, T)>> {
    (0..=rounds).map(|_| Ok((ours()?, reference()?))).skip(1).collect()
}

/// The middle one; of an even number the upper.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Reads to the end in blocks as large as a pipe; returns the number of bytes.
pub(crate) fn drain(mut from: impl Read) -> io::Result<usize> {
    let mut block = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        match from.read(&mut block)? {
            0 => return Ok(bytes),
            count => bytes += count,
        }
    }
}

/// The number behind `name:` in a file of `/proc`, its unit left out.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Number of context switches of all threads of a process, and number of threads. Each wake-up ends with a context
/// switch.
pub(crate) fn switches(running: &Running) -> Result<(u64, usize)> {
    let (mut switches, mut threads) = (0, 0);
    for task in fs::read_dir(running.proc_file("task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        for name in ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"] {
            switches += field(&status, name).ok_or("no context switches in /proc/PID/task/TID/status")?;
        }
        threads += 1;
    }
    Ok((switches, threads))
}
