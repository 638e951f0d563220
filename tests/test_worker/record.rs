//! The test worker's record of its events, one JSON object a line, for the test to read.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

/// A point in time by both clocks, in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    /// `CLOCK_MONOTONIC`, which is the same for all processes of the host.
    mono: i64,
    /// Since the epoch.
    wall: i64,
}

impl Moment {
    /// Microseconds since a point in the past that is the same for all processes.
    pub(crate) fn since_boot(self) -> i64 {
        self.mono
    }

    pub(crate) fn now() -> Self {
        let read = |clock| {
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            #[expect(unsafe_code, reason = "std has no clock that two processes can compare")]
            // SAFETY: `time` is a valid place for the answer.
            unsafe {
                libc::clock_gettime(clock, &raw mut time);
            }
            time.tv_sec * 1_000_000 + time.tv_nsec / 1000
        };
        Self { mono: read(libc::CLOCK_MONOTONIC), wall: read(libc::CLOCK_REALTIME) }
    }
}

/// The file, if any.
pub(crate) struct Record(Option<PathBuf>, Option<File>);

impl Record {
    pub(crate) fn from_environment() -> Self {
        let path = std::env::var_os("TEST_WORKER_RECORD").map(PathBuf::from);
        let open = |path: &PathBuf| OpenOptions::new().create(true).append(true).open(path);
        let file = path.as_ref().map(|path| open(path).expect("cannot open $TEST_WORKER_RECORD"));
        Self(path, file)
    }

    /// Records an event with the current time.
    pub(crate) fn event(&self, name: &str, fields: Value) {
        self.write(Moment::now(), name, fields);
    }

    /// Records a start: the time at which `main` was entered, and the worker's environment.
    pub(crate) fn start(&self, when: Moment, args: &[String]) {
        if self.1.is_some() {
            self.write(when, "start", surroundings(args));
        }
    }

    /// The number of starts in this record so far.
    pub(crate) fn starts(&self) -> usize {
        self.lines_with("\"event\":\"start\"")
    }

    /// The number of lines that contain this text.
    pub(crate) fn lines_with(&self, text: &str) -> usize {
        let Some(path) = &self.0 else { return 0 };
        let content = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&content).lines().filter(|line| line.contains(text)).count()
    }

    /// Appends one line with one `write`, so that the lines of several processes never mix.
    fn write(&self, when: Moment, name: &str, fields: Value) {
        let Some(mut file) = self.1.as_ref() else { return };
        let mut object = json!({
            "event": name, "pid": std::process::id(), "mono": when.mono, "wall": when.wall,
        });
        if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
            object.extend(fields);
        }
        file.write_all(format!("{object}\n").as_bytes()).expect("cannot write the record");
    }
}

/// The arguments, environment and limits with which the worker was started.
fn surroundings(args: &[String]) -> Value {
    let env: BTreeMap<String, String> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim_start_matches(':').trim().to_owned())
    };
    let oom = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    json!({
        "args": args,
        "env": env,
        "cwd": std::env::current_dir().unwrap_or_default(),
        "uid": nix::unistd::getuid().as_raw(),
        "gid": nix::unistd::getgid().as_raw(),
        "groups": field("Groups"),
        "ppid": std::os::unix::process::parent_id(),
        "pgid": nix::unistd::getpgrp().as_raw(),
        "fds": open_files(),
        "blocked": field("SigBlk"),
        // Rust's start-up code ignores SIGPIPE before `main`, so its bit is meaningless.
        "ignored": field("SigIgn"),
        "oom_score_adj": oom.trim().parse::<i32>().ok(),
    })
}

/// The open descriptors with their targets, except the record itself and the descriptor of this listing.
fn open_files() -> BTreeMap<String, String> {
    let record = std::env::var("TEST_WORKER_RECORD").unwrap_or_default();
    let Ok(folder) = std::fs::read_dir("/proc/self/fd") else { return BTreeMap::new() };
    folder
        .flatten()
        .filter_map(|entry| {
            let target = std::fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
            let own = target == record || target.ends_with("/fd");
            (!own).then(|| (entry.file_name().to_string_lossy().into_owned(), target))
        })
        .collect()
}
