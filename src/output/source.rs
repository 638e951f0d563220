//! One worker's output: its two pipes, and the processing of their content.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tracing::warn;

use super::last_lines::LastLines;
use super::render::Stream;
use super::sink::Log;
use super::speaker::Speaker;
use super::{NewWorker, WorkerPipes};
use crate::protocol::transport::{LONGEST_PIECE, Piece, Splitter};

/// Size to which the worker's pipes are enlarged where that is allowed, in bytes. It doubles the throughput.
const PIPE_SIZE: i32 = 256 * 1024;

/// Assumed capacity of a pipe if the system does not report it (`/proc/sys/fs/pipe-max-size`), in bytes.
const LARGEST_PIPE: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Source {
    pub(super) id: u64,
    pipes: [Pipe; 2],
    speaker: Speaker,
    last: LastLines,
    /// Completed lines that are not counted yet.
    lines: u64,
    finished: Arc<AtomicBool>,
    has_ended: bool,
}

#[derive(Debug)]
struct Pipe {
    fd: Option<OwnedFd>,
    stream: Stream,
    splitter: Splitter,
    /// True if the current long line has used up its time as the sink's only source.
    outstayed: bool,
    /// Set once the worker's process has exited: the maximum number of unread bytes that can have been in the pipe at
    /// that time. Anything beyond was written by another process.
    left: Option<usize>,
}

/// The result of one read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) bytes: usize,
    pub(super) keeps_sink: bool,
}

impl Source {
    pub(super) fn new(worker: NewWorker) -> Self {
        let NewWorker { id, pipes, events, finished } = worker;
        let WorkerPipes { stdout, stderr, offered, counts_tasks, keep_last } = pipes;
        let pipes = [
            Pipe::new(stdout, Stream::Stdout, Splitter::with_messages()),
            Pipe::new(stderr, Stream::Stderr, Splitter::without_messages()),
        ];
        let speaker = Speaker::new(offered, counts_tasks, events);
        Self { id, pipes, speaker, last: LastLines::new(keep_last), lines: 0, finished, has_ended: false }
    }

    /// The open pipes, with their indexes.
    pub(super) fn open(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.pipes.iter().enumerate().filter_map(|(index, pipe)| Some((index, pipe.fd.as_ref()?.as_fd())))
    }

    pub(super) fn is_open(&self, index: usize) -> bool {
        self.pipes.get(index).is_some_and(|pipe| pipe.fd.is_some())
    }

    /// Returns true if nothing is left to read.
    pub(super) fn is_done(&self) -> bool {
        self.pipes.iter().all(|pipe| pipe.fd.is_none())
    }

    pub(super) fn is_told_to_finish(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// The worker's process has exited: only what it wrote is still read.
    pub(super) fn finish(&mut self) {
        self.pipes.iter_mut().for_each(Pipe::finish);
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.pipes.iter().any(|pipe| pipe.left.is_some())
    }

    /// Reads once from one pipe, and renders what is complete. The result says whether a long line needs to keep the
    /// sink.
    pub(super) fn read(&mut self, index: usize, buffer: &mut [u8], log: &mut Log) -> Reading {
        let Some((pipe, mut way)) = self.way(index, log) else { return Reading::default() };
        let Some(fd) = &pipe.fd else { return Reading::default() };
        let mut reading = Reading::default();
        match nix::unistd::read(fd, buffer) {
            Ok(0) => pipe.close(&mut way),
            Ok(count) => {
                reading.bytes = count;
                pipe.splitter.feed(buffer.get(..count).unwrap_or_default(), &mut |piece| way.forward(piece));
                pipe.left = pipe.left.map(|left| left.saturating_sub(count));
                if pipe.left == Some(0) {
                    pipe.close(&mut way);
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => {
                warn!(%error, stream = pipe.stream.name(), "cannot read the worker's output any more");
                pipe.close(&mut way);
            }
        }
        way.end();
        pipe.outstayed &= pipe.splitter.is_inside_long_line();
        reading.keeps_sink = pipe.splitter.is_inside_long_line() && !pipe.outstayed;
        reading
    }

    /// Takes the number of lines completed since the last call.
    pub(super) fn take_lines(&mut self) -> u64 {
        std::mem::take(&mut self.lines)
    }

    /// Handles an empty pipe. If the worker's process has exited, nothing of its own can follow.
    pub(super) fn found_empty(&mut self, index: usize, log: &mut Log) {
        let Some((pipe, mut way)) = self.way(index, log) else { return };
        if pipe.left.is_some() {
            pipe.close(&mut way);
            way.end();
        }
    }

    /// Ends the long line's exclusive use of the sink: the available part is written, and other lines follow.
    pub(super) fn give_way(&mut self, index: usize, log: &mut Log) {
        let Some((pipe, mut way)) = self.way(index, log) else { return };
        pipe.outstayed = true;
        pipe.splitter.flush_part(&mut |piece| way.forward(piece));
        way.end();
    }

    /// Returns true if nothing may be read until the supervisor's channel has room.
    pub(super) fn waits(&self) -> bool {
        self.speaker.waits()
    }

    /// Passes pending events to the supervisor, as far as its channel has room.
    pub(super) fn hand_over(&mut self, context: &mut Context<'_>) {
        self.speaker.hand_over(context);
    }

    /// Sends the final event to the supervisor, once, after everything is read and written.
    pub(super) fn end(&mut self) {
        if self.is_done() && !self.has_ended {
            self.has_ended = true;
            self.speaker.end(self.last.take_text());
        }
    }

    /// Returns true if the source can be removed.
    pub(super) fn is_over(&self) -> bool {
        self.has_ended && !self.waits()
    }

    /// The time at which the next summary of faulty messages is due.
    pub(super) fn complaints_due(&self) -> Option<Instant> {
        self.speaker.complaints.due()
    }

    /// Logs the summaries of faulty messages that are due.
    pub(super) fn complain(&mut self, now: Instant) {
        self.speaker.complaints.tell(Some(now));
    }

    fn way<'a>(&'a mut self, index: usize, log: &'a mut Log) -> Option<(&'a mut Pipe, Way<'a>)> {
        let pipe = self.pipes.get_mut(index)?;
        let speaker = Some(&mut self.speaker).filter(|_| pipe.stream == Stream::Stdout);
        let from = log.len();
        let (last, lines) = (&mut self.last, &mut self.lines);
        let way = Way { stream: pipe.stream, speaker, last, log, from, lines };
        Some((pipe, way))
    }
}

impl Pipe {
    fn new(fd: OwnedFd, stream: Stream, splitter: Splitter) -> Self {
        // The read ends belong to the runner: the worker does not see these flags.
        let prepared = fcntl(&fd, FcntlArg::F_GETFL)
            .map(|flags| OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK)
            .and_then(|flags| fcntl(&fd, FcntlArg::F_SETFL(flags)));
        if let Err(error) = prepared {
            warn!(%error, stream = stream.name(), "cannot make the worker's pipe non-blocking");
        }
        // If the larger size is not allowed, the pipe works as well, but more slowly.
        let _ = fcntl(&fd, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        Self { fd: Some(fd), stream, splitter, outstayed: false, left: None }
    }

    fn finish(&mut self) {
        let Some(fd) = self.fd.as_ref().filter(|_| self.left.is_none()) else { return };
        // Queried now, because the worker may have changed the size.
        let size = fcntl(fd, FcntlArg::F_GETPIPE_SZ).ok().and_then(|size| usize::try_from(size).ok());
        self.left = Some(size.unwrap_or(LARGEST_PIPE));
    }

    /// A last line without a newline still counts.
    fn close(&mut self, way: &mut Way<'_>) {
        self.fd = None;
        self.splitter.finish(&mut |piece| way.forward(piece));
    }
}

/// The path of one block from a pipe to the log.
struct Way<'a> {
    stream: Stream,
    /// The protocol's speaker; `None` on stderr.
    speaker: Option<&'a mut Speaker>,
    last: &'a mut LastLines,
    log: &'a mut Log,
    /// The offset in the log's block at which this path begins.
    from: usize,
    /// Counts completed lines.
    lines: &'a mut u64,
}

impl Way<'_> {
    fn forward(&mut self, piece: Piece<'_>) {
        *self.lines += u64::from(!matches!(piece, Piece::Part { last: false, .. }));
        let renderer = &mut self.log.renderer;
        match piece {
            Piece::Line(line) => {
                let heard = self.speaker.as_mut().is_some_and(|speaker| speaker.hears(line, renderer));
                if !heard && line.len() > LONGEST_PIECE {
                    return self.long_line(line.as_bytes());
                } else if !heard {
                    renderer.line(self.stream, line);
                }
            }
            Piece::Bytes(line) if line.len() > LONGEST_PIECE => return self.long_line(line),
            Piece::Bytes(line) => renderer.bytes(self.stream, line),
            Piece::Part { bytes, first, last } => renderer.part(self.stream, bytes, first, last),
            Piece::Refused { size } => {
                if let Some(speaker) = &mut self.speaker {
                    speaker.refused(size);
                }
            }
        }
        if self.log.is_full() {
            self.last.take(self.log.since(self.from));
            self.log.flush();
            self.from = 0;
        }
    }

    /// Forwards a line that was held because it began like a message, and is not one.
    fn long_line(&mut self, line: &[u8]) {
        let mut splitter = Splitter::without_messages();
        let lines = *self.lines;
        splitter.feed(line, &mut |piece| self.forward(piece));
        splitter.finish(&mut |piece| self.forward(piece));
        // The line is counted already.
        *self.lines = lines;
    }

    fn end(self) {
        self.last.take(self.log.since(self.from));
    }
}
