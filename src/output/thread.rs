//! The thread's loop: writes the runner's lines and the workers' output to the sink, block by block.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::warn;

use super::sink::Log;
use super::source::Source;
use super::{Command, Format, Shared, WAITING_LINES};

/// Initial size of a read, in bytes. It grows at the first read that fills the buffer.
const FIRST_READ: usize = 8 * 1024;
const LARGE_READ: usize = 64 * 1024;

/// Time limit for a line that is forwarded in parts to use the sink exclusively.
const KEEPS_SINK: Duration = Duration::from_secs(1);

struct OutputThread {
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    log: Log,
    sources: Vec<Source>,
    buffer: Vec<u8>,
    /// The pipe inside a long line, which uses the sink exclusively until the given time.
    keeper: Option<SinkOwner>,
    /// The runner's own lines that wait for the keeper.
    held_lines: VecDeque<Vec<u8>>,
    /// True if more commands may be waiting than one turn takes.
    commands_left: bool,
    /// The number of dropped lines that has already been reported.
    told: u64,
    waker: Waker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SinkOwner {
    pipe: PipeId,
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PipeId {
    source: u64,
    index: usize,
}

/// Runs until the output is closed.
pub(super) fn run(commands: Receiver<Command>, shared: Arc<Shared>, sink: OwnedFd, format: Format) {
    let log = Log::new(sink, format, shared.identity.clone());
    let waker = Waker::from(shared.clone());
    let mut thread = OutputThread {
        commands,
        shared,
        log,
        sources: Vec::new(),
        buffer: vec![0; FIRST_READ],
        keeper: None,
        held_lines: VecDeque::new(),
        commands_left: false,
        told: 0,
        waker,
    };
    while thread.turn() {}
}

impl OutputThread {
    /// Runs one turn; `false` after the last.
    fn turn(&mut self) -> bool {
        // Read before the pipes are polled: only then does an empty pipe mean that everything has been read. And read
        // before the queue, so that the queue holds all lines that came first.
        let closing = self.shared.closing.load(Ordering::Acquire);
        self.finish_sources(closing);
        let looked_at = self.wait(closing);
        let now = Instant::now();
        self.log.renderer.set_time(jiff::Timestamp::now());
        // Lines logged before the worker wrote precede its output.
        self.take_commands(now);
        for (pipe, ready) in looked_at {
            self.look(pipe, ready, now);
        }
        self.give_way(now);
        self.sources.iter_mut().for_each(|source| source.complain(now));
        self.log.flush();
        self.shared.lost_bytes.store(self.log.ever_lost(), Ordering::Relaxed);
        self.hand_over();
        self.tell_dropped();
        if closing && self.sources.is_empty() && !self.commands_left {
            self.write_last_lines(now);
            return false;
        }
        true
    }

    fn finish_sources(&mut self, closing: bool) {
        for source in &mut self.sources {
            if closing || source.is_told_to_finish() {
                source.finish();
            }
        }
    }

    fn take_commands(&mut self, now: Instant) {
        self.commands_left = true;
        for _ in 0..WAITING_LINES {
            self.render_lines();
            match self.commands.try_recv() {
                Ok(Command::Line(line)) => self.held_lines.push_back(line),
                Ok(Command::Attach(worker)) => self.sources.push(Source::new(*worker)),
                Ok(Command::CatchUp { id }) => self.catch_up(id, now),
                Err(_) => {
                    self.commands_left = false;
                    return;
                }
            }
        }
        self.render_lines();
    }

    /// Renders the runner's own lines, unless a long line uses the sink exclusively.
    fn render_lines(&mut self) {
        if self.keeper.is_some() {
            return;
        }
        for line in self.held_lines.drain(..) {
            self.log.renderer.out.extend_from_slice(&line);
            self.shared.waits_no_more(line.len());
        }
        if self.log.is_full() {
            self.log.flush();
        }
    }

    /// Reads the current content of a source's pipes.
    fn catch_up(&mut self, source: u64, now: Instant) {
        // By default, a pipe holds at most 1 MiB. The limit is needed because another process may be writing all the
        // time.
        const MOST_READS: usize = 128;
        for index in 0..2 {
            let pipe = PipeId { source, index };
            let allowed = self.keeper.is_none_or(|keeper| keeper.pipe == pipe);
            for _ in 0..if allowed { MOST_READS } else { 0 } {
                if self.read(pipe, now) == 0 || !self.has_room_for(source) {
                    break;
                }
            }
        }
    }

    /// Passes events to the supervisor after the block that contained them is written. Never blocks.
    fn hand_over(&mut self) {
        let mut context = Context::from_waker(&self.waker);
        for source in &mut self.sources {
            source.end();
            source.hand_over(&mut context);
        }
        self.sources.retain(|source| !source.is_over());
    }

    fn tell_dropped(&mut self) {
        let dropped = self.shared.dropped_lines.load(Ordering::Relaxed);
        if dropped > self.told {
            let lines = dropped - self.told;
            // If this line is dropped, too, the next one includes it.
            warn!(name: "log-lines-dropped", lines, "lines of the runner's own log are missing here: the log was stalled");
            self.told = dropped;
        }
    }

    /// Writes the lines of the last turn.
    fn write_last_lines(&mut self, now: Instant) {
        self.take_commands(now);
        self.log.flush();
        // Writes the sink's own warnings, too.
        self.take_commands(now);
        self.log.flush();
    }

    /// Waits for input or work. Returns the polled pipes, and whether each is readable.
    fn wait(&mut self, closing: bool) -> Vec<(PipeId, bool)> {
        let mut waiting = vec![PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN)];
        let mut pipes = Vec::new();
        let lines_can_go = self.keeper.is_none() && !self.held_lines.is_empty();
        // A source that waits for the supervisor is woken by its channel.
        let closes = closing && !self.sources.iter().any(Source::waits);
        let mut something_to_do = closes || lines_can_go || self.commands_left;
        for source in self.sources.iter().filter(|source| !source.waits()) {
            for (index, fd) in source.open() {
                let pipe = PipeId { source: source.id, index };
                if self.keeper.is_none_or(|keeper| keeper.pipe == pipe) {
                    waiting.push(PollFd::new(fd, PollFlags::POLLIN));
                    pipes.push(pipe);
                    // A pipe that is being read to its end is either readable now or empty.
                    something_to_do |= source.is_finishing();
                }
            }
        }
        let timeout = if something_to_do { PollTimeout::ZERO } else { self.until_something_is_due() };
        if poll(&mut waiting, timeout).is_err() {
            // EINTR, or a lack of memory that the next turn may not have: the state of the pipes is unknown.
            return Vec::new();
        }
        let mut readable = waiting.iter().map(|fd| fd.any().unwrap_or(true));
        if readable.next() == Some(true) {
            let _ = self.shared.wake.read();
        }
        pipes.into_iter().zip(readable).collect()
    }

    fn until_something_is_due(&self) -> PollTimeout {
        let keeper = self.keeper.map(|keeper| keeper.until);
        let due = self.sources.iter().filter_map(Source::complaints_due).chain(keeper).min();
        let Some(due) = due else { return PollTimeout::NONE };
        let left = due.saturating_duration_since(Instant::now());
        // Rounded up, so that the thread does not wake too early and then spin.
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO)
    }

    fn look(&mut self, pipe: PipeId, ready: bool, now: Instant) {
        // Another pipe may have begun to use the sink exclusively since this one was polled.
        if self.keeper.is_some_and(|keeper| keeper.pipe != pipe) {
            return;
        }
        if ready {
            self.read(pipe, now);
        } else if let Some(source) = self.sources.iter_mut().find(|source| source.id == pipe.source) {
            source.found_empty(pipe.index, &mut self.log);
            self.shared.read(source.take_lines(), 0);
            self.keeper = self.keeper.filter(|_| source.is_open(pipe.index));
        }
    }

    /// Returns true if the supervisor's channel has room for all events of this source.
    fn has_room_for(&mut self, source: u64) -> bool {
        if self.sources.iter().any(|known| known.id == source && known.waits()) {
            self.log.flush();
            self.hand_over();
        }
        self.sources.iter().any(|known| known.id == source && !known.waits())
    }

    /// Reads once. Returns the number of bytes.
    fn read(&mut self, pipe: PipeId, now: Instant) -> usize {
        let Some(source) = self.sources.iter_mut().find(|source| source.id == pipe.source) else { return 0 };
        let reading = source.read(pipe.index, &mut self.buffer, &mut self.log);
        self.shared.read(source.take_lines(), reading.bytes);
        if reading.bytes == self.buffer.len() && self.buffer.len() < LARGE_READ {
            self.buffer = vec![0; LARGE_READ];
        }
        let keeps = self.keeper.is_some_and(|keeper| keeper.pipe == pipe);
        if keeps && !reading.keeps_sink {
            self.keeper = None;
        } else if reading.keeps_sink && self.keeper.is_none() {
            self.keeper = Some(SinkOwner { pipe, until: now + KEEPS_SINK });
        }
        reading.bytes
    }

    fn give_way(&mut self, now: Instant) {
        let Some(keeper) = self.keeper.filter(|keeper| now >= keeper.until) else { return };
        self.keeper = None;
        if let Some(source) = self.sources.iter_mut().find(|source| source.id == keeper.pipe.source) {
            source.give_way(keeper.pipe.index, &mut self.log);
        }
    }
}
