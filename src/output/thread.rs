//! The thread's loop: what the runner says and what the workers write, block by block into the sink.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::warn;

use super::render::Renderer;
use super::sink::Sink;
use super::source::Source;
use super::{Command, Format, Shared};

/// Reads begin so small, and grow at the first read that fills the buffer, in bytes.
const FIRST_READ: usize = 8 * 1024;
const LARGE_READ: usize = 64 * 1024;

/// How long a line that is forwarded in parts may keep the sink to itself.
const KEEPS_SINK: Duration = Duration::from_secs(1);

struct OutputThread {
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    sink: Sink,
    renderer: Renderer,
    sources: Vec<Source>,
    buffer: Vec<u8>,
    /// The pipe inside a long line, which has the sink to itself until then.
    keeper: Option<Keeper>,
    /// The runner's own lines that wait for the keeper.
    held_lines: VecDeque<Vec<u8>>,
    closing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keeper {
    pipe: PipeId,
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PipeId {
    source: u64,
    index: usize,
}

/// Runs until it is told to close.
pub(super) fn run(commands: Receiver<Command>, shared: Arc<Shared>, sink: OwnedFd, format: Format) {
    let mut thread = OutputThread {
        commands,
        shared,
        sink: Sink::new(sink),
        renderer: Renderer::new(format),
        sources: Vec::new(),
        buffer: vec![0; FIRST_READ],
        keeper: None,
        held_lines: VecDeque::new(),
        closing: false,
    };
    while thread.turn() {}
}

impl OutputThread {
    /// One turn; `false` after the last.
    fn turn(&mut self) -> bool {
        let ready = self.wait();
        let now = Instant::now();
        self.renderer.set_time(jiff::Timestamp::now());
        // What was said before the worker wrote stands before it.
        self.take_commands(now);
        for pipe in &ready {
            self.read(*pipe, now);
        }
        self.give_way(now);
        let ends = self.finished(&ready);
        self.sink.write(&mut self.renderer.out);
        for end in ends {
            end.tell();
        }
        self.tell_dropped();
        !(self.closing && self.sources.is_empty() && self.write_last_lines())
    }

    fn take_commands(&mut self, now: Instant) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Line(line) => self.held_lines.push_back(line),
                Command::Attach { id, pipes, events } => self.sources.push(Source::new(id, pipes, events)),
                Command::CatchUp { id } => self.catch_up(id, now),
                Command::Finish { id } => {
                    self.sources.iter_mut().filter(|source| source.id == id).for_each(Source::finish);
                }
                Command::Close => {
                    self.closing = true;
                    self.sources.iter_mut().for_each(Source::finish);
                }
            }
            self.render_lines();
        }
        self.render_lines();
    }

    /// The runner's own lines wait while a long line has the sink to itself.
    fn render_lines(&mut self) {
        if self.keeper.is_some() {
            return;
        }
        for line in self.held_lines.drain(..) {
            self.renderer.out.extend_from_slice(&line);
            self.shared.waiting_lines.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Reads what is in a source's pipes now.
    fn catch_up(&mut self, source: u64, now: Instant) {
        // A pipe holds 1 MiB at most where nobody changed that; somebody may be writing all the time.
        const MOST_READS: usize = 128;
        for index in 0..2 {
            let pipe = PipeId { source, index };
            let allowed = self.keeper.is_none_or(|keeper| keeper.pipe == pipe);
            for _ in 0..if allowed { MOST_READS } else { 0 } {
                if self.read(pipe, now) == 0 {
                    break;
                }
            }
        }
    }

    fn tell_dropped(&self) {
        let lines = self.shared.dropped_lines.swap(0, Ordering::Relaxed);
        if lines > 0 {
            warn!(lines, "lines of the runner's own log are missing here: the log was stalled");
        }
    }

    /// Waits for something to read, or to do; the pipes that can be read now.
    fn wait(&mut self) -> Vec<PipeId> {
        let timeout = self.timeout();
        let mut waiting = vec![PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN)];
        let mut pipes = Vec::new();
        for source in &self.sources {
            for (index, fd) in source.open() {
                let pipe = PipeId { source: source.id, index };
                if self.keeper.is_none_or(|keeper| keeper.pipe == pipe) {
                    waiting.push(PollFd::new(fd, PollFlags::POLLIN));
                    pipes.push(pipe);
                }
            }
        }
        // An error is EINTR, or a lack of memory that the next turn may not have.
        let _ = poll(&mut waiting, timeout);
        let mut readable = waiting.iter().map(|fd| fd.any().unwrap_or(false));
        if readable.next() == Some(true) {
            let _ = self.shared.wake.read();
        }
        pipes.into_iter().zip(readable).filter_map(|(pipe, ready)| ready.then_some(pipe)).collect()
    }

    fn timeout(&self) -> PollTimeout {
        let lines_can_go = self.keeper.is_none() && !self.held_lines.is_empty();
        let something_to_do = lines_can_go || !self.renderer.out.is_empty() || self.closing;
        if something_to_do || self.sources.iter().any(Source::is_finishing) {
            return PollTimeout::ZERO;
        }
        let Some(keeper) = self.keeper else { return PollTimeout::NONE };
        let left = keeper.until.saturating_duration_since(Instant::now());
        // Rounded up, so that it does not wake too early and then spin.
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO)
    }

    /// Reads once; how many bytes that were.
    fn read(&mut self, pipe: PipeId, now: Instant) -> usize {
        let Some(source) = self.sources.iter_mut().find(|source| source.id == pipe.source) else { return 0 };
        let reading = source.read(pipe.index, &mut self.buffer, &mut self.renderer);
        if reading.bytes == self.buffer.len() && self.buffer.len() < LARGE_READ {
            self.buffer = vec![0; LARGE_READ];
        }
        let keeps = self.keeper.is_some_and(|keeper| keeper.pipe == pipe);
        if keeps && !reading.keeps_sink {
            self.keeper = None;
        } else if reading.keeps_sink && self.keeper.is_none() {
            self.keeper = Some(Keeper { pipe, until: now + KEEPS_SINK });
        }
        reading.bytes
    }

    fn give_way(&mut self, now: Instant) {
        let Some(keeper) = self.keeper.filter(|keeper| now >= keeper.until) else { return };
        self.keeper = None;
        if let Some(source) = self.sources.iter_mut().find(|source| source.id == keeper.pipe.source) {
            source.give_way(keeper.pipe.index, &mut self.renderer);
        }
    }

    /// Takes out the sources of which nothing more is to be read; `ready` are the pipes that had something just now.
    fn finished(&mut self, ready: &[PipeId]) -> Vec<super::source::End> {
        let mut ends = Vec::new();
        let keeper = self.keeper.map(|keeper| keeper.pipe.source);
        let is_done = |source: &Source| {
            // While another pipe keeps the sink this one was not looked at.
            let looked_at = keeper.is_none_or(|keeper| keeper == source.id);
            source.is_done(looked_at && !ready.iter().any(|pipe| pipe.source == source.id))
        };
        while let Some(index) = self.sources.iter().position(is_done) {
            let source = self.sources.swap_remove(index);
            self.keeper = self.keeper.filter(|keeper| keeper.pipe.source != source.id);
            ends.push(source.end(&mut self.renderer));
        }
        ends
    }

    /// What was said while the last sources ended. Whether nothing is left to write.
    fn write_last_lines(&mut self) -> bool {
        self.take_commands(Instant::now());
        self.sink.write(&mut self.renderer.out);
        true
    }
}
