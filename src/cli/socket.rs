//! The client side of the status socket: one request, one answer.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use serde_json::{Value, json};
use start_worker::host::trust;
use start_worker::telemetry::{last_run, status};

use super::environment::Environment;

/// Time limit of a runner's answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Maximum size of an answer, in bytes.
const LONGEST_ANSWER: u64 = 1024 * 1024;

/// The address of the runner's status socket.
#[derive(Debug, clap::Args)]
pub(crate) struct Address {
    /// The runner's status.socket. Default: `status.sock` in `RUNTIME_DIRECTORY`, else in /run/start-worker (root) or
    /// `$XDG_RUNTIME_DIR/start-worker` (others)
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Address {
    /// Sends a request that is answered at once. Returns the answer.
    pub(super) fn ask(&self, request: &str) -> Result<Value, String> {
        self.exchange(&json!({ "request": request }), Some(ANSWER_TIME))
    }

    /// Sends a request that is answered at once, and returns the answer.
    pub(super) fn request(&self, request: &Value) -> Result<Value, String> {
        self.exchange(request, Some(ANSWER_TIME))
    }

    /// Asks for something that takes as long as it takes.
    pub(super) fn ask_without_limit(&self, request: &Value) -> Result<Value, String> {
        self.exchange(request, None)
    }

    /// Returns the state directory of the runner that listens here, as far as it is known without asking: systemd's
    /// variable, else the unit's.
    pub(super) fn state_directory(&self) -> Option<PathBuf> {
        let of_unit = || last_run::state_directory_of(&self.path().ok()?).filter(|folder| folder.is_dir());
        Environment::read().state_directory.or_else(of_unit)
    }

    fn path(&self) -> Result<PathBuf, String> {
        let default = || Environment::read().runtime_directory.as_deref().map(status::default_path);
        self.socket.clone().or_else(default).ok_or_else(|| {
            "you have no start-worker of your own: ask the service's as root, or name its status.socket with --socket".to_owned()
        })
    }

    /// Returns true if anything listens on the socket, or if that cannot be determined.
    pub(super) fn is_listened_to(&self) -> Result<bool, String> {
        let nobody = |cause: &io::Error| {
            matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        };
        Ok(!UnixStream::connect(self.path()?).is_err_and(|cause| nobody(&cause)))
    }

    /// The record of the newest run of the start-worker that this socket belongs to. `None`: there is none.
    ///
    /// # Errors
    ///
    /// The reason why it is not shown.
    pub(super) fn last_run(&self) -> Result<Option<Value>, String> {
        self.state_directory().map_or(Ok(None), |folder| last_run::read(&folder))
    }

    /// Calls `show` with the current status and after every change, until the runner ends or `show` stops. `every`:
    /// also calls `show` with `None` after this long without a change.
    pub(super) fn watch(
        &self,
        every: Option<Duration>,
        mut show: impl FnMut(Option<Value>) -> io::Result<ControlFlow<()>>,
    ) -> Result<(), String> {
        let (path, stream) = self.connect(every)?;
        let at = path.display();
        let mut show = |answer| show(answer).map_err(|cause| format!("cannot print the answer: {cause}"));
        let mut reader =
            send(&stream, &json!({ "request": "status", "watch": true })).map_err(broken(&path))?;
        // Kept across timeouts, which can interrupt a line.
        let mut line = Vec::new();
        let mut answered = false;
        loop {
            let shown = match reader.read_until(b'\n', &mut line) {
                Ok(0) if !answered => return Err(ended_silently(&path)),
                Ok(0) => return Ok(()),
                Ok(_) if line.len() as u64 >= LONGEST_ANSWER => {
                    return Err(format!("what listens at {at} is no start-worker: its answer does not end"));
                }
                Ok(_) => {
                    let answer = parse(&path, &line)?;
                    line.clear();
                    reader.get_mut().set_limit(LONGEST_ANSWER);
                    answered = true;
                    show(Some(answer))?
                }
                Err(cause) if is_timeout(&cause) => show(None)?,
                // The runner was killed.
                Err(cause) if cause.kind() == io::ErrorKind::ConnectionReset && answered => return Ok(()),
                Err(cause) => return Err(broken(&path)(cause)),
            };
            if shown.is_break() {
                return Ok(());
            }
        }
    }

    fn exchange(&self, request: &Value, answer_time: Option<Duration>) -> Result<Value, String> {
        let (path, stream) = self.connect(answer_time)?;
        let mut reader = send(&stream, request).map_err(broken(&path))?;
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).map_err(broken(&path))?;
        if line.is_empty() {
            return Err(ended_silently(&path));
        }
        parse(&path, &line)
    }

    /// Connects. `answer_time` is the time limit of each answer.
    fn connect(&self, answer_time: Option<Duration>) -> Result<(PathBuf, UnixStream), String> {
        let path = self.path()?;
        let at = path.display();
        let stream = UnixStream::connect(&path).map_err(|cause| match cause.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("may not speak to the start-worker at {at}: {cause}; ask as root, or as its user")
            }
            _ => format!(
                "no start-worker listens at {at}: {cause}; is it running, and is this its status.socket (--socket)?"
            ),
        })?;
        check_peer(&path, &stream)?;
        stream.set_write_timeout(Some(ANSWER_TIME)).map_err(broken(&path))?;
        stream.set_read_timeout(answer_time).map_err(broken(&path))?;
        Ok((path, stream))
    }
}

/// Checks with the kernel (`unix(7)`, `SO_PEERCRED`) which user listens. Another user's answer is not read, because it
/// may not come from a start-worker.
fn check_peer(path: &Path, stream: &UnixStream) -> Result<(), String> {
    let uid = socket_peercred(stream).map_err(|cause| broken(path)(cause.into()))?.uid.as_raw();
    if trust::is_trusted(uid) {
        return Ok(());
    }
    Err(format!(
        "uid {uid} listens at {at}, not root and not you, and is not asked; if its start-worker is meant: \
         `setpriv --reuid={uid} --clear-groups start-worker … --socket {word}`",
        at = path.display(),
        word = trust::shell_word(path)
    ))
}

/// Sends the request. A server that refuses to read it may already have answered with the reason.
fn send<'a>(stream: &'a UnixStream, request: &Value) -> io::Result<Reader<'a>> {
    let mut writer = stream;
    let sent = writer.write_all(format!("{request}\n").as_bytes());
    let mut reader = BufReader::new(stream.take(LONGEST_ANSWER));
    match sent {
        Err(cause) if reader.fill_buf().is_ok_and(<[u8]>::is_empty) => Err(cause),
        _ => Ok(reader),
    }
}

type Reader<'a> = BufReader<io::Take<&'a UnixStream>>;

fn is_timeout(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn broken(path: &Path) -> impl Fn(io::Error) -> String + use<'_> {
    let at = path.display();
    move |cause| {
        if is_timeout(&cause) {
            return format!(
                "the start-worker at {at} has not answered within {} s: see its log",
                ANSWER_TIME.as_secs()
            );
        }
        format!("cannot speak to the start-worker at {at}: {cause}")
    }
}

fn ended_silently(path: &Path) -> String {
    format!("the start-worker at {} has ended without an answer: see its log", path.display())
}

fn parse(path: &Path, line: &[u8]) -> Result<Value, String> {
    let at = path.display();
    let answer: Value = serde_json::from_slice(line).map_err(|cause| {
        format!("what listens at {at} is no start-worker: its answer is not JSON ({cause})")
    })?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => Err(format!("the start-worker at {at} refuses: {}", printable(error))),
        None => Ok(answer),
    }
}

/// Prints the result on stdout or stderr. Returns the exit code.
pub(super) fn conclude(result: Result<String, String>) -> u8 {
    let printed = match &result {
        Ok(text) => super::print(text),
        Err(_) => Ok(()),
    };
    let error = match (result, printed) {
        (Ok(_), Ok(())) => return super::exit::OK,
        (Ok(_), Err(cause)) => format!("cannot print the answer: {cause}"),
        (Err(error), _) => error,
    };
    super::tell(&format!("error: {error}"));
    super::exit::FAILED
}

/// A field of an answer, safe for a terminal.
pub(super) fn text(answer: &Value, field: &str) -> String {
    printable(answer.get(field).and_then(Value::as_str).unwrap_or_default())
}

/// Escapes the characters that a terminal would interpret or reorder: control characters and bidirectional marks.
pub(super) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || is_direction_mark(letter) {
            printable.extend(letter.escape_default());
        } else {
            printable.push(letter);
        }
    }
    printable
}

/// Formats an answer as a line of JSON with the same characters escaped.
pub(super) fn json_line(answer: &Value) -> String {
    let mut line = String::new();
    for letter in answer.to_string().chars() {
        // In JSON they only occur in strings, and all of them have four hexadecimal digits.
        if letter.is_control() || is_direction_mark(letter) {
            // Writing to a String cannot fail.
            let _ = write!(line, "\\u{:04x}", u32::from(letter));
        } else {
            line.push(letter);
        }
    }
    line.push('\n');
    line
}

/// Unicode's characters of the property `Bidi_Control`.
fn is_direction_mark(letter: char) -> bool {
    matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_answer_moves_a_terminals_cursor_or_turns_its_writing() {
        let said = "a\u{1b}[2J\u{9b}2J\r\n\u{202e}b é";
        assert_eq!(printable(said), r"a\u{1b}[2J\u{9b}2J\r\n\u{202e}b é");
        let answer = json!({ "outcome": said });
        assert_eq!(text(&answer, "outcome"), printable(said));
        let line = json_line(&answer);
        assert_eq!(
            line.matches(|c: char| c.is_control() || is_direction_mark(c)).collect::<Vec<_>>(),
            ["\n"]
        );
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), answer, "it is the same JSON");
    }
}
