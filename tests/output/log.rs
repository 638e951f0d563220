//! A log with real pipes, workers to write into it, and everything that comes out, waited for with a deadline.

use std::fmt::{self, Write as _};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use start_worker::output::{Attachment, Format, Output, WorkerEvent, WorkerPipes};
use start_worker::protocol::capabilities::{Capabilities, Capability};
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::harness::captured;

/// Time limit for an event that must happen. Reached only when a test fails.
const DEADLINE: Duration = Duration::from_secs(60);

/// The output thread and its output.
pub(crate) struct Log {
    pub(crate) output: Option<Output>,
    /// Not read, until the sink is to move.
    stalled: Option<PipeReader>,
    chunks: Sender<Vec<u8>>,
    received: Receiver<Vec<u8>>,
    unread: Vec<u8>,
    /// The thread's own log, as `WARN message field=value`.
    own: Receiver<String>,
}

impl Log {
    pub(crate) fn new(format: Format) -> Self {
        let (reader, writer) = std::io::pipe().expect("pipe");
        let mut log = Self::with_sink(writer.into(), format);
        log.stalled = Some(reader);
        log.unstall();
        log
    }

    /// The sink takes nothing until [`unstall`](Self::unstall): it is full from the start. What it is full of is not
    /// seen afterwards.
    pub(crate) fn stalled(format: Format) -> Self {
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        // As large as the runner makes it: it would have room again.
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(256 * 1024)).expect("a larger pipe");
        set_nonblocking(&writer, true);
        while writer.write(&[b'\n'; 4096]).is_ok() {}
        while writer.write(b"\n").is_ok() {}
        set_nonblocking(&writer, false);
        let mut log = Self::with_sink(writer.into(), format);
        log.stalled = Some(reader);
        log
    }

    pub(crate) fn with_sink(sink: OwnedFd, format: Format) -> Self {
        // An event can be lost to a thread without a subscriber: with this one, no thread of the tests is without.
        captured::install();
        let (said, own) = channel();
        let subscriber = tracing_subscriber::registry().with(Recorder(said));
        let output = tracing::subscriber::with_default(subscriber, || Output::start(sink, format));
        let (chunks, received) = channel();
        Self { output: output.ok(), stalled: None, chunks, received, unread: Vec::new(), own }
    }

    pub(crate) fn unstall(&mut self) {
        let mut reader = self.stalled.take().expect("stalled");
        let chunks = self.chunks.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count) = reader.read(&mut buffer) {
                let chunk = buffer.get(..count).unwrap_or_default().to_vec();
                if count == 0 || chunks.send(chunk).is_err() {
                    break;
                }
            }
        });
    }

    pub(crate) fn output(&self) -> &Output {
        self.output.as_ref().expect("open")
    }

    /// The next line of the log. Skips empty ones, which filled a stalled sink.
    pub(crate) fn line(&mut self) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                if line.len() > 1 {
                    return String::from_utf8(line)
                        .expect("the log is UTF-8")
                        .trim_end_matches('\n')
                        .to_owned();
                }
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let chunk = self.received.recv_timeout(left).expect("another line of the log");
            self.unread.extend(chunk);
        }
    }

    /// The next line without its time.
    pub(crate) fn text(&mut self) -> String {
        untimed(&self.line())
    }

    /// Closes the output; the rest of the log, without times.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        assert!(self.output.take().expect("open").close(DEADLINE), "the output did not close");
        let (chunks, _) = channel();
        self.chunks = chunks;
        while let Ok(chunk) = self.received.recv_timeout(DEADLINE) {
            self.unread.extend(chunk);
        }
        let text = String::from_utf8(std::mem::take(&mut self.unread)).expect("the log is UTF-8");
        text.split_terminator('\n').filter(|line| !line.is_empty()).map(untimed).collect()
    }

    /// The thread's next message that contains this text.
    pub(crate) fn said(&self, what: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.own.recv_timeout(left).unwrap_or_else(|_| panic!("nobody said {what}"));
            if line.contains(what) {
                return line;
            }
        }
    }

    /// Everything else that the thread has said so far.
    pub(crate) fn all(&self) -> Vec<String> {
        self.own.try_iter().collect()
    }

    pub(crate) fn worker(&self) -> Worker {
        self.worker_with(64, true)
    }

    /// A worker that is offered only these capabilities.
    pub(crate) fn worker_offered(&self, offered: Capabilities) -> Worker {
        self.attach(64, true, offered)
    }

    pub(crate) fn worker_with(&self, room_for_events: usize, counts_tasks: bool) -> Worker {
        self.attach(room_for_events, counts_tasks, Capability::ALL.into_iter().collect())
    }

    fn attach(&self, room_for_events: usize, counts_tasks: bool, offered: Capabilities) -> Worker {
        let (stdout_reader, stdout) = std::io::pipe().expect("pipe");
        let (stderr_reader, stderr) = std::io::pipe().expect("pipe");
        let (events, received) = mpsc::channel(room_for_events);
        let pipes = WorkerPipes {
            stdout: stdout_reader.into(),
            stderr: stderr_reader.into(),
            offered,
            counts_tasks,
            keep_last: 3,
        };
        let attachment = self.output().attach(pipes, events).expect("attach");
        Worker { stdout: Some(stdout), stderr: Some(stderr), attachment, events: Some(received) }
    }
}

/// The worker's side.
pub(crate) struct Worker {
    pub(crate) stdout: Option<PipeWriter>,
    pub(crate) stderr: Option<PipeWriter>,
    pub(crate) attachment: Attachment,
    events: Option<mpsc::Receiver<WorkerEvent>>,
}

impl Worker {
    pub(crate) fn print(&mut self, bytes: impl AsRef<[u8]>) {
        self.stdout.as_mut().expect("open").write_all(bytes.as_ref()).expect("somebody reads stdout");
    }

    pub(crate) fn print_error(&mut self, bytes: impl AsRef<[u8]>) {
        self.stderr.as_mut().expect("open").write_all(bytes.as_ref()).expect("somebody reads stderr");
    }

    /// Says hello, and gives the capabilities in force.
    pub(crate) fn hello(&mut self, capabilities: &str) -> Capabilities {
        use start_worker::protocol::message::FromWorker;
        self.print(format!("~{{\"type\":\"hello\",\"capabilities\":{capabilities}}}\n"));
        match self.event() {
            WorkerEvent::Message(FromWorker::Hello { capabilities }) => capabilities,
            other => panic!("{other:?} instead of hello"),
        }
    }

    /// The supervisor's next event.
    pub(crate) fn event(&mut self) -> WorkerEvent {
        let mut events = self.events.take().expect("nobody else receives");
        let (sender, received) = channel();
        std::thread::spawn(move || {
            let event = events.blocking_recv();
            let _ = sender.send((event, events));
        });
        let (event, events) = received.recv_timeout(DEADLINE).expect("another event");
        self.events = Some(events);
        event.expect("the thread is there")
    }

    /// The worker exits, and no other process holds its pipes. Returns its last lines.
    pub(crate) fn exit(mut self) -> Vec<String> {
        self.stdout = None;
        self.stderr = None;
        self.attachment.finish();
        self.end()
    }

    /// The last lines, once its output has ended.
    pub(crate) fn end(&mut self) -> Vec<String> {
        match self.event() {
            WorkerEvent::End { last_lines } => last_lines,
            other => panic!("{other:?} instead of the end"),
        }
    }
}

/// The line without its time, which must be one.
pub(crate) fn untimed(line: &str) -> String {
    let (time, text) = line.split_once(' ').unwrap_or((line, ""));
    match time.parse::<jiff::Timestamp>() {
        Ok(_) if time.len() == "2026-11-23T19:12:00.123Z".len() => text.to_owned(),
        // The runner's own line, or JSON.
        _ => line.to_owned(),
    }
}

pub(crate) fn set_nonblocking(pipe: &PipeWriter, nonblocking: bool) {
    let flags = fcntl(pipe, FcntlArg::F_GETFL).map(OFlag::from_bits_retain).expect("flags");
    let flags = if nonblocking { flags | OFlag::O_NONBLOCK } else { flags - OFlag::O_NONBLOCK };
    fcntl(pipe, FcntlArg::F_SETFL(flags)).expect("flags");
}

/// Hands over each event as a line.
struct Recorder(Sender<String>);

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let _ = self.0.send(format!("{} {}{}", event.metadata().level(), line.message, line.fields));
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.fields, " {}={value}", field.name());
    }
}
