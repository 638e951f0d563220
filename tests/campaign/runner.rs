//! One start of the runner: its process, its log, and the signals it received.

use std::io::Read;
use std::process::{Child, ChildStderr, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use test_support::processes;

/// Limit for a worker's output: only the runner's own lines matter.
const MOST_LOG: usize = 64 << 20;

pub(crate) struct Runner {
    child: Child,
    pub(crate) began: Instant,
    /// The signals it was sent, and when.
    pub(crate) signals: Vec<(Signal, Instant)>,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Log {
    bytes: Mutex<Vec<u8>>,
    stalled: AtomicBool,
    ended: AtomicBool,
}

impl Runner {
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Self> {
        let mut child = command.spawn()?;
        let log = Arc::new(Log::default());
        let reader = child.stderr.take().map(|stderr| {
            let log = log.clone();
            std::thread::spawn(move || log.read(stderr))
        });
        Ok(Self { child, began: Instant::now(), signals: Vec::new(), log, reader })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Only while it has not been found ended.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if kill(Pid::from_raw(self.pid()), signal).is_ok() {
            self.signals.push((signal, Instant::now()));
        }
    }

    /// The time of the first of these signals.
    pub(crate) fn first(&self, signals: &[Signal]) -> Option<Instant> {
        self.signals.iter().find(|(signal, _)| signals.contains(signal)).map(|(_, when)| *when)
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Limits the number of further files that it can open. None: the usual limit.
    pub(crate) fn limit_files(&self, spare: Option<u64>) {
        let open = u64::try_from(processes::open_files(self.pid())).unwrap_or_default();
        let limit = spare.map_or(1024, |spare| open + spare);
        let mut command = Command::new("prlimit");
        command.arg(format!("--pid={}", self.pid())).arg(format!("--nofile={limit}:"));
        // Without the tool there is no such fault.
        command.status().ok();
    }

    pub(crate) fn stall_log(&self, stalled: bool) {
        self.log.stalled.store(stalled, Ordering::Relaxed);
    }

    /// The log so far.
    pub(crate) fn log(&self) -> Vec<u8> {
        self.log.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the end of the log, but not long for a process that keeps it open.
    pub(crate) fn finish_log(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        self.stall_log(false);
        let end = Instant::now() + PATIENCE;
        while !self.log.ended.load(Ordering::Acquire) && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(2));
        }
        if self.log.ended.load(Ordering::Acquire)
            && let Some(reader) = self.reader.take()
        {
            reader.join().ok();
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        self.stall_log(false);
    }
}

impl Log {
    fn read(&self, mut stderr: ChildStderr) {
        let mut block = vec![0; 1 << 16];
        loop {
            while self.stalled.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            let count = stderr.read(&mut block).unwrap_or(0);
            if count == 0 {
                self.ended.store(true, Ordering::Release);
                return;
            }
            let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            if bytes.len() < MOST_LOG {
                bytes.extend_from_slice(&block[..count]);
            }
        }
    }
}
