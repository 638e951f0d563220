//! One worker's output: its two pipes, what is in them, and what becomes of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memchr::memmem;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::last_lines::LastLines;
use super::render::{Renderer, Stream};
use super::{WorkerEvent, WorkerPipes};
use crate::protocol::capabilities::{Capabilities, Capability};
use crate::protocol::message::{self, FromWorker, Malformed, Members, RawMessage};
use crate::protocol::transport::{Piece, Splitter};

/// The worker's pipes are made this large where that is allowed, in bytes: it doubles the throughput.
const PIPE_SIZE: i32 = 256 * 1024;

/// What a pipe may hold where the system does not say (`/proc/sys/fs/pipe-max-size`), in bytes.
const LARGEST_PIPE: usize = 1024 * 1024;

/// What generic-worker writes before a metric, in its log records.
const METRICS: &[u8] = b"WORKER_METRICS ";

/// One of the worker's pipes.
#[derive(Debug)]
struct Pipe {
    fd: Option<OwnedFd>,
    stream: Stream,
    splitter: Splitter,
    /// The long line that it is inside has kept the sink for its time.
    outstayed: bool,
    /// How many bytes fit into it.
    capacity: usize,
    /// Once the worker's process is gone: how many bytes can at most have been in it by then and are still unread.
    /// More was written by somebody else.
    left: Option<usize>,
}

/// A worker's output.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) id: u64,
    pipes: [Pipe; 2],
    speaker: Speaker,
    last: LastLines,
}

/// The worker as a speaker of the protocol.
#[derive(Debug)]
struct Speaker {
    offered: Capabilities,
    in_force: Capabilities,
    counts_tasks: bool,
    events: mpsc::Sender<WorkerEvent>,
}

impl Source {
    pub(super) fn new(id: u64, pipes: WorkerPipes, events: mpsc::Sender<WorkerEvent>) -> Self {
        let WorkerPipes { stdout, stderr, offered, counts_tasks, keep_last } = pipes;
        let speaker = Speaker { offered, in_force: Capabilities::NONE, counts_tasks, events };
        let pipes = [Pipe::new(stdout, Stream::Stdout), Pipe::new(stderr, Stream::Stderr)];
        Self { id, pipes, speaker, last: LastLines::new(keep_last) }
    }

    /// The pipes that are still open, by index.
    pub(super) fn open(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.pipes.iter().enumerate().filter_map(|(index, pipe)| Some((index, pipe.fd.as_ref()?.as_fd())))
    }

    /// The worker's process is gone: only what it wrote is still to be read.
    pub(super) fn finish(&mut self) {
        for pipe in &mut self.pipes {
            pipe.left.get_or_insert(pipe.capacity);
        }
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.pipes.iter().any(|pipe| pipe.left.is_some())
    }

    /// Whether nothing more is to be read. `empty`: nothing was in its pipes just now.
    pub(super) fn is_done(&self, empty: bool) -> bool {
        self.pipes.iter().all(|pipe| pipe.fd.is_none() || pipe.left.is_some_and(|left| empty || left == 0))
    }

    /// Reads once from one pipe, and renders what is complete. Whether a long line wants to keep the sink.
    pub(super) fn read(&mut self, index: usize, buffer: &mut [u8], renderer: &mut Renderer) -> Reading {
        let Some(pipe) = self.pipes.get_mut(index) else { return Reading::default() };
        let Some(fd) = &pipe.fd else { return Reading::default() };
        let before = renderer.out.len();
        let mut speaker = Some(&mut self.speaker).filter(|_| pipe.stream == Stream::Stdout);
        let stream = pipe.stream;
        let mut forward = |piece: Piece<'_>| forward(stream, &piece, speaker.as_deref_mut(), renderer);
        let mut reading = Reading::default();
        match nix::unistd::read(fd, buffer) {
            Ok(0) => {
                pipe.fd = None;
                pipe.splitter.finish(&mut forward);
            }
            Ok(count) => {
                reading.bytes = count;
                pipe.left = pipe.left.map(|left| left.saturating_sub(count));
                pipe.splitter.feed(buffer.get(..count).unwrap_or_default(), &mut forward);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => {
                warn!(%error, stream = ?pipe.stream, "cannot read the worker's output any more");
                pipe.fd = None;
                pipe.splitter.finish(&mut forward);
            }
        }
        pipe.outstayed &= pipe.splitter.is_inside_long_line();
        reading.keeps_sink = pipe.splitter.is_inside_long_line() && !pipe.outstayed;
        self.last.take(renderer.out.get(before..).unwrap_or_default());
        reading
    }

    /// The long line in this pipe has kept the sink for its time: what there is of it goes out, and others follow.
    pub(super) fn give_way(&mut self, index: usize, renderer: &mut Renderer) {
        if let Some(pipe) = self.pipes.get_mut(index) {
            pipe.outstayed = true;
            let stream = pipe.stream;
            pipe.splitter.flush_part(&mut |piece| forward(stream, &piece, None, renderer));
        }
    }

    /// Closes the pipes; a last line without newline still counts. Tells the supervisor.
    pub(super) fn end(mut self, renderer: &mut Renderer) -> End {
        let before = renderer.out.len();
        for pipe in &mut self.pipes {
            pipe.fd = None;
            let mut speaker = Some(&mut self.speaker).filter(|_| pipe.stream == Stream::Stdout);
            let stream = pipe.stream;
            pipe.splitter.finish(&mut |piece| forward(stream, &piece, speaker.as_deref_mut(), renderer));
        }
        self.last.take(renderer.out.get(before..).unwrap_or_default());
        End { events: self.speaker.events, last_lines: self.last.into_text() }
    }
}

/// What one read gave.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) bytes: usize,
    pub(super) keeps_sink: bool,
}

/// The end of a worker's output, to be told once the last of it is written.
#[derive(Debug)]
pub(super) struct End {
    events: mpsc::Sender<WorkerEvent>,
    last_lines: Vec<String>,
}

impl End {
    pub(super) fn tell(self) {
        // The supervisor may not wait for it any more.
        let _ = self.events.blocking_send(WorkerEvent::End { last_lines: self.last_lines });
    }
}

impl Pipe {
    fn new(fd: OwnedFd, stream: Stream) -> Self {
        // The reading ends are the runner's own: the worker does not see these flags.
        let prepared = fcntl(&fd, FcntlArg::F_GETFL)
            .map(|flags| OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK)
            .and_then(|flags| fcntl(&fd, FcntlArg::F_SETFL(flags)));
        if let Err(error) = prepared {
            warn!(%error, "cannot make the worker's pipe non-blocking");
        }
        let _ = fcntl(&fd, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        let capacity = fcntl(&fd, FcntlArg::F_GETPIPE_SZ).ok().and_then(|size| usize::try_from(size).ok());
        Self {
            fd: Some(fd),
            stream,
            splitter: Splitter::default(),
            outstayed: false,
            capacity: capacity.unwrap_or(LARGEST_PIPE),
            left: None,
        }
    }
}

fn forward(stream: Stream, piece: &Piece<'_>, speaker: Option<&mut Speaker>, renderer: &mut Renderer) {
    match *piece {
        Piece::Line(line) => {
            if let Some(speaker) = speaker.filter(|_| may_be_message(line))
                && let Some(parsed) = message::parse(line)
            {
                return speaker.heard(&parsed, line, renderer);
            }
            renderer.line(stream, line);
        }
        Piece::Part { bytes, first, last } => renderer.part(stream, bytes, first, last),
        Piece::Refused { size } => warn!(
            bytes = size,
            "worker sent a message that is too long: not read; a message may have 4194304 bytes"
        ),
    }
}

fn may_be_message(line: &[u8]) -> bool {
    line.first().is_some_and(|byte| *byte == b'~' || byte.is_ascii_whitespace())
}

impl Speaker {
    fn heard(&mut self, message: &RawMessage<'_>, line: &[u8], renderer: &mut Renderer) {
        let needed = match &*message.kind {
            "log" => Capability::Log,
            "hello" => return self.hello(message),
            "error-report" => Capability::ErrorReport,
            "shutdown" => Capability::Shutdown,
            other => return debug!(kind = other, "worker sent a message of an unknown type: ignored"),
        };
        if !self.in_force.has(needed) {
            debug!(kind = &*message.kind, "worker sent a message whose capability is not in force: ignored");
            return;
        }
        match needed {
            Capability::Log => match message.log_body() {
                Ok(body) => self.log(body, renderer),
                Err(malformed) => malformed_message(&malformed, line),
            },
            Capability::ErrorReport => match message.error_report() {
                Ok(report) => self.tell(WorkerEvent::Message(FromWorker::ErrorReport(report))),
                Err(malformed) => malformed_message(&malformed, line),
            },
            _ => self.tell(WorkerEvent::Message(FromWorker::Shutdown)),
        }
    }

    fn hello(&mut self, message: &RawMessage<'_>) {
        let said = message.hello().unwrap_or_else(|malformed| {
            warn!(error = %malformed, "worker's hello is malformed: taken as one without capabilities");
            Capabilities::NONE
        });
        self.in_force = self.offered.and(said);
        self.tell(WorkerEvent::Message(FromWorker::Hello { capabilities: self.in_force }));
    }

    fn log(&mut self, body: &RawValue, renderer: &mut Renderer) {
        renderer.record(body);
        if self.counts_tasks
            && memmem::find(body.get().as_bytes(), METRICS).is_some()
            && let Some(event) = task_event(body)
        {
            self.tell(event);
        }
    }

    fn tell(&self, event: WorkerEvent) {
        // The supervisor always receives, or is gone.
        let _ = self.events.blocking_send(event);
    }
}

fn malformed_message(malformed: &Malformed, line: &[u8]) {
    const SHOWN: usize = 1000;
    let raw = String::from_utf8_lossy(line.get(..SHOWN).unwrap_or(line));
    warn!(error = %malformed, message_text = %raw, "worker sent a malformed message: ignored");
}

/// What a record says of a task: its `textPayload` holds `WORKER_METRICS {"eventType": "taskStart", …}`.
fn task_event(body: &RawValue) -> Option<WorkerEvent> {
    #[derive(serde::Deserialize)]
    struct Metric {
        #[serde(rename = "eventType")]
        event_type: String,
    }
    let Members(members) = serde_json::from_str(body.get()).ok()?;
    let (_, payload) = members.into_iter().find(|(key, _)| key == "textPayload")?;
    let text = message::text(payload)?;
    let at = memmem::find(text.as_bytes(), METRICS)? + METRICS.len();
    let mut metrics = serde_json::Deserializer::from_str(text.get(at..)?).into_iter::<Metric>();
    match metrics.next()?.ok()?.event_type.as_str() {
        "taskStart" => Some(WorkerEvent::TaskStarted),
        "taskFinish" => Some(WorkerEvent::TaskFinished),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: &str) -> Option<WorkerEvent> {
        task_event(serde_json::from_str(body).unwrap())
    }

    #[test]
    fn metrics_tell_of_tasks() {
        let body = r#"{"textPayload":"WORKER_METRICS {\"eventType\":\"taskStart\",\"taskId\":\"x\"}"}"#;
        assert_eq!(event(body), Some(WorkerEvent::TaskStarted));
        let body = r#"{"textPayload":"2026/11/23 WORKER_METRICS {\"taskId\":\"x\", \"eventType\":\"taskFinish\"}\n"}"#;
        assert_eq!(event(body), Some(WorkerEvent::TaskFinished));
        for other in [
            r#"{"textPayload":"WORKER_METRICS {\"eventType\":\"workerReady\"}"}"#,
            r#"{"textPayload":"WORKER_METRICS "}"#,
            r#"{"textPayload":"WORKER_METRICS {"}"#,
            r#"{"text":"WORKER_METRICS {\"eventType\":\"taskStart\"}"}"#,
            r#"{"textPayload":1}"#,
        ] {
            assert_eq!(event(other), None, "{other}");
        }
    }
}
