//! The workers: this very executable, in one of these parts. Faster than a script, so that it is not them who is measured.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::measure;

/// The first argument of a worker.
pub(crate) const MARK: &str = "act-as-worker";

/// In a record: the worker has entered `main`, and it ends now.
pub(crate) const STARTED: &str = "started";
pub(crate) const ENDS: &str = "ends";
/// In a record: graceful-termination has arrived.
pub(crate) const ASKED: &str = "asked";

/// One structured record, 122 bytes with the newline.
const LOG_MESSAGE: &str = concat!(
    r#"~{"type":"log","body":{"level":"info","textPayload":""#,
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "\"}}\n"
);
const _: () = assert!(LOG_MESSAGE.len() == 122, "the table says 122 bytes");

/// Bytes per write.
const CHUNK: usize = 256 * 1024;

/// Longer than any measurement. Processes that are left behind exit after it.
const LIFETIME: Duration = Duration::from_secs(120);

/// Lives as the arguments say.
pub(crate) fn live(arguments: &[String]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    act(&arguments).unwrap_or(ExitCode::from(99))
}

fn act(arguments: &[&str]) -> io::Result<ExitCode> {
    match *arguments {
        ["hello"] => hello()?,
        ["obey", record] => obey(Path::new(record))?,
        ["crash", record] => return crash(Path::new(record)),
        ["logs", count] => {
            hello()?;
            repeat(LOG_MESSAGE.as_bytes(), number(count)?)?;
        }
        ["one-line", size] => one_line(number(size)?)?,
        ["one-line-and-pause", size] => {
            one_line(number(size)?)?;
            measure::pause(Duration::from_millis(100));
        }
        _ => return Err(io::Error::other("no such worker")),
    }
    Ok(ExitCode::SUCCESS)
}

fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(io::Error::other)
}

fn hello() -> io::Result<()> {
    stdout()?.write_all(
        b"~{\"type\":\"hello\",\"capabilities\":[\"error-report\",\"graceful-termination\",\"log\",\"shutdown\"]}\n",
    )
}

/// Without the standard library's buffer, which looks for newlines.
fn stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Sleeps until it is asked to end, and records when that was.
fn obey(record: &Path) -> io::Result<()> {
    std::thread::spawn(|| {
        measure::pause(LIFETIME);
        #[expect(clippy::exit, clippy::disallowed_methods, reason = "the other thread sleeps in a read")]
        std::process::exit(0);
    });
    hello()?;
    for line in io::stdin().lock().lines() {
        // The welcome names it, too, among the capabilities.
        if line?.contains(r#""type":"graceful-termination""#) {
            return note(record, ASKED);
        }
    }
    Ok(())
}

/// Ends as soon as it has begun.
fn crash(record: &Path) -> io::Result<ExitCode> {
    note(record, STARTED)?;
    note(record, ENDS)?;
    Ok(ExitCode::from(1))
}

/// Appends a line: what, and when by the clock that all processes share, in nanoseconds.
fn note(record: &Path, what: &str) -> io::Result<()> {
    let now = measure::now().as_nanos();
    OpenOptions::new().create(true).append(true).open(record)?.write_all(format!("{what} {now}\n").as_bytes())
}

fn one_line(size: usize) -> io::Result<()> {
    repeat(b"x", size)?;
    stdout()?.write_all(b"\n")
}

/// Writes `unit` so many times, from one buffer.
fn repeat(unit: &[u8], mut count: usize) -> io::Result<()> {
    let mut out = stdout()?;
    let at_once = (CHUNK / unit.len()).max(1);
    let chunk = unit.repeat(at_once);
    while count > 0 {
        let now = at_once.min(count);
        out.write_all(&chunk[..now * unit.len()])?;
        count -= now;
    }
    Ok(())
}
