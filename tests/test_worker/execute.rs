//! Executes the statements.

use std::collections::HashMap;
use std::fs::File;
use std::io::{PipeWriter, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal};
use serde_json::json;

use crate::record::Record;
use crate::script::{Statement, Trigger};

/// The size of a write when speed matters.
const CHUNK: usize = 1 << 18;

/// A running worker, shared by its threads.
pub(crate) struct Worker {
    pub(crate) record: Record,
    reactions: Vec<(Trigger, Vec<Statement>)>,
    out: Mutex<Option<File>>,
    stdin: Mutex<Option<PipeWriter>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The number of received messages that were not awaited yet, by type.
    unread: HashMap<String, usize>,
    first_only: bool,
    told_to_stop: bool,
}

impl Worker {
    pub(crate) fn new(record: Record, reactions: Vec<Statement>) -> Self {
        let out = std::io::stdout().as_fd().try_clone_to_owned().ok().map(File::from);
        let reaction = |statement| match statement {
            Statement::On(trigger, body) => Some((trigger, body)),
            _ => None,
        };
        Self {
            record,
            reactions: reactions.into_iter().filter_map(reaction).collect(),
            out: Mutex::new(out),
            stdin: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Stores the value whose drop closes stdin.
    pub(crate) fn keep_stdin(&self, keep: PipeWriter) {
        *lock(&self.stdin) = Some(keep);
    }

    /// Wakes the threads that wait for a message of this type.
    pub(crate) fn arrived(&self, kind: String) {
        *lock(&self.state).unread.entry(kind).or_default() += 1;
        self.changed.notify_all();
    }

    /// Starts the reaction to the first of these triggers that has one; `false`: there is none.
    pub(crate) fn react(self: &Arc<Self>, triggers: &[Trigger], tells_to_stop: bool) -> bool {
        let Some((_, body)) = self.reactions.iter().find(|(trigger, _)| triggers.contains(trigger)) else {
            return false;
        };
        if tells_to_stop {
            let mut state = lock(&self.state);
            if state.first_only && state.told_to_stop {
                return true;
            }
            state.told_to_stop = true;
        }
        let (worker, body) = (Arc::clone(self), body.clone());
        std::thread::spawn(move || worker.execute(&body));
        true
    }

    pub(crate) fn execute(&self, statements: &[Statement]) {
        for statement in statements {
            self.step(statement);
        }
    }

    fn step(&self, statement: &Statement) {
        match statement {
            Statement::Out(bytes) => self.write(bytes),
            Statement::Err(bytes) => write_stderr(bytes),
            Statement::Lines { count, size } => self.numbered_lines(*count, *size),
            Statement::Fast { line, count } => self.fast(line, *count),
            Statement::Blob(size) => self.fast(b"x", *size),
            Statement::Pour { a_second, size, time } => self.pour(*a_second, *size, *time),
            Statement::Flood { kind, time } => self.flood(kind, *time),
            Statement::CloseStdin => {
                lock(&self.stdin).take();
                close(libc::STDIN_FILENO);
            }
            Statement::CloseStdout => {
                lock(&self.out).take();
                close(libc::STDOUT_FILENO);
            }
            Statement::Sleep(duration) => pause(*duration),
            Statement::Await(kind) => self.await_message(kind),
            Statement::WaitFile(path) => wait_for_file(path),
            Statement::Wait => pause(Duration::MAX),
            Statement::Spawn(descendant) => descendant.spawn(self),
            Statement::Run(command) => self.run(command),
            Statement::Exit(code) => self.exit(*code),
            Statement::Die(signal) => self.die(*signal),
            Statement::Note(text) => self.record.event("note", json!({"text": text})),
            Statement::FirstOnly => lock(&self.state).first_only = true,
            // All reactions are in force from the start.
            Statement::On(..) => {}
        }
    }

    /// Executes a command, waits for its end, and records it.
    fn run(&self, command: &[String]) {
        let Some((program, arguments)) = command.split_first() else { return };
        let mut child = std::process::Command::new(program);
        let status = child.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
        let code = status.as_ref().ok().and_then(std::process::ExitStatus::code);
        self.record.event("run", json!({"command": command, "code": code}));
    }

    pub(crate) fn exit(&self, code: i32) -> ! {
        self.record.event("exit", json!({"code": code}));
        exit(code);
    }

    /// Dies of a signal, without a core file.
    pub(crate) fn die(&self, signal: Signal) -> ! {
        self.record.event("exit", json!({"signal": signal.as_str()}));
        setrlimit(Resource::RLIMIT_CORE, 0, 0).ok();
        #[expect(unsafe_code, reason = "there is no other way to die of a signal that is caught")]
        // SAFETY: the default action is no handler, so nothing runs in a signal's context.
        unsafe {
            nix::sys::signal::signal(signal, SigHandler::SigDfl).ok();
        }
        nix::sys::signal::raise(signal).ok();
        pause(Duration::MAX);
        exit(97);
    }

    fn await_message(&self, kind: &str) {
        let nothing = |state: &mut State| state.unread.get(kind).is_none_or(|&count| count == 0);
        let state = self.changed.wait_while(lock(&self.state), nothing);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        *state.unread.entry(kind.to_owned()).or_default() -= 1;
    }

    fn numbered_lines(&self, count: usize, size: usize) {
        let mut chunk = Vec::with_capacity(CHUNK + size);
        for number in 0..count {
            let line = format!("{number:09} ");
            chunk.extend_from_slice(line.as_bytes());
            chunk.resize(chunk.len() + size.saturating_sub(line.len() + 1), b'x');
            chunk.push(b'\n');
            if chunk.len() >= CHUNK || number + 1 == count {
                self.write(&chunk);
                chunk.clear();
            }
        }
    }

    /// Writes a hundredth of the lines every 10 ms; a slow reader delays them.
    fn pour(&self, a_second: usize, size: usize, time: Duration) {
        const PAUSE: Duration = Duration::from_millis(10);
        let mut line = vec![b'x'; size.max(1)];
        line[size.max(1) - 1] = b'\n';
        let (began, mut written) = (Instant::now(), 0);
        while began.elapsed() < time {
            let due = usize::try_from(began.elapsed().as_millis()).unwrap_or_default() * a_second / 1000;
            self.fast(&line, due.saturating_sub(written));
            written = written.max(due);
            pause(PAUSE);
        }
    }

    /// Writes `unit` this many times, in large chunks.
    fn fast(&self, unit: &[u8], mut count: usize) {
        let per_chunk = (CHUNK / unit.len()).max(1);
        let chunk = unit.repeat(per_chunk.min(count));
        while count > 0 {
            let now = per_chunk.min(count);
            self.write(chunk.get(..now * unit.len()).unwrap_or_default());
            count -= now;
        }
    }

    fn flood(&self, kind: &str, time: Duration) {
        let block = test_support::flood::block(kind).unwrap_or_default();
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.write(&block);
        }
    }

    /// Writes to stdout. A worker whose reader is gone dies of SIGPIPE, as programs written in Go do.
    fn write(&self, bytes: &[u8]) {
        let mut out = lock(&self.out);
        let Some(file) = out.as_mut() else { return };
        if let Err(error) = file.write_all(bytes) {
            self.record.event("write-failed", json!({"error": error.to_string()}));
            self.die(Signal::SIGPIPE);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn close(fd: i32) {
    nix::unistd::close(fd).ok();
}

fn wait_for_file(path: &Path) {
    while !path.exists() {
        pause(Duration::from_millis(1));
    }
}

/// Waits for this long.
pub(crate) fn pause(duration: Duration) {
    let end = Instant::now().checked_add(duration);
    loop {
        let left = end.map_or(duration, |end| end.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

/// Exits at once, from any thread.
pub(crate) fn exit(code: i32) -> ! {
    #[expect(clippy::exit, clippy::disallowed_methods, reason = "a worker that misbehaves closes nothing")]
    std::process::exit(code)
}

pub(crate) fn write_stdout(bytes: &[u8]) {
    std::io::stdout().write_all(bytes).ok();
}

pub(crate) fn write_stderr(bytes: &[u8]) {
    std::io::stderr().write_all(bytes).ok();
}
