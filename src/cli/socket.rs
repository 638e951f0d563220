//! The client's side of the status socket: one request, one answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use start_worker::observe::status;

use super::environment::Environment;

/// How long a runner may take for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// No answer is longer.
const LONGEST_ANSWER: u64 = 1024 * 1024;

/// Where the runner is that is spoken to.
#[derive(Debug, clap::Args)]
pub(crate) struct Address {
    /// The runner's status.socket. Default: `status.sock` in `RUNTIME_DIRECTORY`, else in /run/start-worker (root) or
    /// `$XDG_RUNTIME_DIR/start-worker` (others)
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Address {
    /// Asks for something that is done at once; the answer.
    pub(super) fn ask(&self, request: &str) -> Result<Value, String> {
        self.exchange(&json!({ "request": request }), Some(ANSWER_TIME))
    }

    /// Asks for a drain, and waits for its end, for as long as it takes.
    pub(super) fn ask_to_drain_and_wait(&self) -> Result<Value, String> {
        self.exchange(&json!({ "request": "drain", "wait": true }), None)
    }

    fn path(&self) -> Result<PathBuf, String> {
        let default = || Environment::read().runtime_directory.as_deref().map(status::default_path);
        self.socket.clone().or_else(default).ok_or_else(|| {
            "there is no runtime directory: give the runner's status.socket with --socket".to_owned()
        })
    }

    fn exchange(&self, request: &Value, answer_time: Option<Duration>) -> Result<Value, String> {
        let path = self.path()?;
        let at = path.display();
        let mut stream = UnixStream::connect(&path).map_err(|cause| match cause.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("may not speak to the start-worker at {at}: {cause}; ask as its user, or as root")
            }
            _ => format!(
                "no start-worker listens at {at}: {cause}; is it running, and is this its status.socket (--socket)?"
            ),
        })?;
        let failed = |cause: io::Error| match cause.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!(
                    "the start-worker at {at} has not answered within {} s: see its log",
                    ANSWER_TIME.as_secs()
                )
            }
            _ => format!("cannot speak to the start-worker at {at}: {cause}"),
        };
        stream.set_write_timeout(Some(ANSWER_TIME)).map_err(failed)?;
        stream.set_read_timeout(answer_time).map_err(failed)?;
        let sent = stream.write_all(format!("{request}\n").as_bytes());
        let mut line = String::new();
        // Who refuses to listen has said why.
        let read = BufReader::new(stream).take(LONGEST_ANSWER).read_line(&mut line);
        if line.is_empty() {
            sent.and(read).map_err(failed)?;
            return Err(format!("the start-worker at {at} has ended without an answer: see its log"));
        }
        let answer: Value = serde_json::from_str(&line).map_err(|cause| {
            format!("what listens at {at} is no start-worker: its answer is not JSON ({cause})")
        })?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(format!("the start-worker at {at} refuses: {error}")),
            None => Ok(answer),
        }
    }
}

/// Prints what came of it, on stdout or stderr; the exit code.
pub(super) fn conclude(result: Result<String, String>) -> u8 {
    let printed = match &result {
        Ok(text) => super::print(text),
        // Without a stderr there is nobody to tell.
        Err(_) => Ok(()),
    };
    let error = match (result, printed) {
        (Ok(_), Ok(())) => return super::exit::OK,
        (Ok(_), Err(cause)) => format!("cannot print the answer: {cause}"),
        (Err(error), _) => error,
    };
    let _ = writeln!(io::stderr(), "error: {error}");
    super::exit::FAILED
}

/// The text of an answer's field.
pub(super) fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer.get(field).and_then(Value::as_str).unwrap_or_default()
}
