//! Checks that the runner's log reports all events.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

/// The end of a runner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) at: Instant,
    /// The runner ended by itself, so that its log is complete.
    pub(crate) by_itself: bool,
}

/// All that a runner says which a signal stops before it has a log.
const STOPPED_EARLY: &str = "stopped before the runner configuration";

/// The message about a worker that SIGKILL does not end.
const GIVEN_UP: &str = "worker cannot be killed";

/// The runner's own lines.
pub(crate) struct Story(Vec<String>);

impl Story {
    /// The worker's lines, and their rests, are left out.
    pub(crate) fn read(log: &[u8]) -> Self {
        let own = |line: &&[u8]| {
            let mut words = line.splitn(3, |byte| *byte == b' ');
            let dated = words.next().is_some_and(|time| time.ends_with(b"Z"));
            line.starts_with(b"error:")
                || line.starts_with(STOPPED_EARLY.as_bytes())
                || dated && words.next().is_some_and(|word| matches!(word, b"INFO" | b"WARN" | b"ERROR"))
        };
        let lines = log.split(|&byte| byte == b'\n').filter(own);
        Self(lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect())
    }

    fn has(&self, texts: &[&str]) -> bool {
        self.0.iter().any(|line| texts.iter().all(|text| line.contains(text)))
    }

    /// Something that it does not tell.
    pub(crate) fn gap(&self, workers: &[i32], signals: &[(Signal, Instant)], end: End) -> Option<String> {
        let missing = ["lines of the runner's own log are missing", "part of the log could not be written"];
        if missing.iter().any(|text| self.has(&[text])) {
            return None;
        }
        // A killed runner does not write the last lines.
        let told =
            if end.by_itself { workers } else { workers.split_last().map_or(workers, |(_, before)| before) };
        if let Some(pid) = told.iter().find(|pid| !self.has(&["worker started", &format!("pid={pid} ")])) {
            return Some(format!("no word of the start of worker {pid}"));
        }
        let ends = ["worker exited", GIVEN_UP];
        let ends = self.0.iter().filter(|line| ends.iter().any(|end| line.contains(end))).count();
        if ends < told.len() {
            return Some(format!("{} workers have ended, and it tells of {ends}", told.len()));
        }
        if !end.by_itself {
            return None;
        }
        let Some(last) = self.0.last() else { return Some("it is empty".to_owned()) };
        if last.starts_with(STOPPED_EARLY) {
            return None;
        }
        if !(last.contains("start-worker ends:") || last.starts_with("error:")) {
            return Some(format!("no word of its end; the last line is `{last}`"));
        }
        self.unmentioned(signals, end.at)
    }

    /// The messages that are missing after a worker that SIGKILL did not end.
    pub(crate) fn not_given_up(&self, pid: i32, code: Option<i32>) -> Option<String> {
        let named = [GIVEN_UP, &format!("pid={pid} state=D waits_in=request_wait_answer")];
        if !self.has(&named) {
            return Some(format!("worker {pid} is stuck, and no line says where"));
        }
        (code != Some(1)).then(|| format!("worker {pid} is stuck, and the exit code is {code:?}"))
    }

    fn unmentioned(&self, signals: &[(Signal, Instant)], end: Instant) -> Option<String> {
        /// Signals at the very end are not received.
        const HEARD: Duration = Duration::from_millis(500);
        let heard = |signal: Signal| self.has(&["received a signal", &format!("signal={signal} ")]);
        let caught = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGHUP];
        // The end that a first signal has brought may come before a second.
        let (first, when) = signals.iter().find(|(signal, _)| caught.contains(signal))?;
        (end.saturating_duration_since(*when) > HEARD && !heard(*first))
            .then(|| format!("no word of {first}"))
    }
}
