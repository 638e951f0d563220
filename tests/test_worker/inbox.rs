//! Messages on the test worker's stdin, and signals. All of them are recorded before the reactions.

use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;

use crate::execute::Worker;
use crate::script::Trigger;

/// Records and handles signals, on a separate thread.
pub(crate) fn listen_for_signals(worker: &Arc<Worker>) {
    let all = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM];
    let mut signals = SignalsInfo::<WithOrigin>::new(all).expect("cannot listen for signals");
    let worker = Arc::clone(worker);
    std::thread::spawn(move || {
        for origin in &mut signals {
            let Ok(signal) = Signal::try_from(origin.signal) else { continue };
            let sender = origin.process.map(|process| process.pid);
            worker.record.event("signal", json!({"signal": signal.as_str(), "from": sender}));
            if !worker.react(&[Trigger::Signal(signal)], signal == Signal::SIGTERM) {
                worker.die(signal);
            }
        }
    });
}

/// Reads stdin on a separate thread, until its end or until the returned writer is dropped. (A thread that blocks in
/// `read` keeps the pipe open even if another closes the descriptor, so this one blocks in `poll`.)
pub(crate) fn listen_to_stdin(worker: &Arc<Worker>) -> PipeWriter {
    let (gone, keep) = std::io::pipe().expect("cannot make a pipe");
    let worker = Arc::clone(worker);
    std::thread::spawn(move || read_stdin(&worker, &gone));
    keep
}

fn read_stdin(worker: &Arc<Worker>, closed: &PipeReader) {
    let mut stdin = std::io::stdin();
    let mut pending = Vec::new();
    let mut block = vec![0; 65536];
    loop {
        let (input, close) = (stdin.as_fd(), closed.as_fd());
        let mut fds = [PollFd::new(input, PollFlags::POLLIN), PollFd::new(close, PollFlags::POLLIN)];
        if nix::poll::poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        if fds[1].any() == Some(true) {
            return;
        }
        let count = stdin.read(&mut block).unwrap_or(0);
        if count == 0 {
            worker.record.event("eof", json!({}));
            worker.react(&[Trigger::Eof], false);
            return;
        }
        pending.extend_from_slice(&block[..count]);
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            receive(worker, String::from_utf8_lossy(&line).trim_end());
        }
    }
}

/// Records a line and reacts to it.
fn receive(worker: &Arc<Worker>, line: &str) {
    let message: Option<Value> = line.strip_prefix('~').and_then(|text| serde_json::from_str(text).ok());
    let kind = message.as_ref().and_then(|message| message["type"].as_str()).unwrap_or_default().to_owned();
    let mut triggers = vec![Trigger::Message(kind.clone())];
    match message.as_ref().map(|message| &message["finish-tasks"]) {
        Some(Value::Bool(true)) => triggers.push(Trigger::Finish),
        Some(Value::Bool(false)) => triggers.push(Trigger::Now),
        _ => {}
    }
    worker.record.event("message", json!({"raw": line, "type": kind, "message": message}));
    let stop = kind == "graceful-termination";
    worker.react(&triggers, stop);
    worker.arrived(kind);
}
