//! Fakes of the clouds' metadata services: as strict as the real ones, and scriptable.
//!
//! Each is an HTTP server on a thread of its own. What it is told is one command a line:
//!
//! | command | does |
//! | --- | --- |
//! | `set PATH VALUE` | a value is there from now on, or is another one; the value is all that follows |
//! | `unset PATH` | a value is not there any more |
//! | `fault PATH FAULT` | requests to paths that begin so (`*`: all) fail: `500` (any status), `hang` (until `clear`), `close`, `garbage`, `delay 2s` |
//! | `fault once PATH FAULT` | the next such request does |
//! | `clear` | no more faults |
//! | `events JSON` | Azure: the scheduled events are these now, an array |
//! | `sessions required` | EC2: no value without a session token (the default); `optional`; `unsupported`: as long ago |
//! | `expire-sessions` | EC2: no token given so far is good any more |
//! | `busy` | says how many requests are being answered right now, those apart that hang or wait for a change |
//! | `requests` | says which requests have come, a line each |

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

mod answers;
mod commands;
mod samples;
mod server;

use answers::Sessions;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    Ec2,
    Azure,
    Gce,
}

/// A recorded request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// The path and the query, undecoded.
    pub target: String,
    /// Names are in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A parameter of the query, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?')?.1;
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        Some(percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned())
    }
}

/// A metadata service. Dropping it ends the server.
pub struct FakeMetadata {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The state shared by the server and its owner.
struct Shared {
    cloud: Cloud,
    state: Mutex<State>,
    /// Counts the changes of values.
    changes: watch::Sender<u64>,
    /// Counts the times that faults were cleared.
    cleared: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    values: BTreeMap<String, Value>,
    faults: Vec<Placed>,
    sessions: Sessions,
    events: Vec<serde_json::Value>,
    incarnation: u64,
    requests: Vec<Request>,
    /// The number of requests that are neither answered nor have a reason to wait.
    busy: usize,
}

/// A value with its version.
struct Value {
    text: String,
    version: u64,
}

/// A fault and its place.
struct Placed {
    /// The prefix of the affected paths.
    prefix: String,
    once: bool,
    fault: Fault,
}

/// A failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Status(u16),
    Hang,
    Close,
    Garbage,
    Delay(Duration),
}

impl FakeMetadata {
    /// Starts a service with an example instance of that cloud. Port 0 means any free port.
    pub fn start(cloud: Cloud, listen: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let mut state = State { incarnation: 1, ..State::default() };
        for &(path, text) in samples::values(cloud) {
            state.values.insert(path.to_owned(), Value { text: text.to_owned(), version: 0 });
        }
        let shared = Arc::new(Shared {
            cloud,
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
            cleared: watch::Sender::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let served = shared.clone();
        let thread = std::thread::spawn(move || server::serve(listener, &served, stopped));
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// `http://host:port`.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Executes a command. Returns its output, or its error.
    pub fn tell(&self, command: &str) -> Result<String, String> {
        commands::obey(&self.shared, command)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }
}

impl Drop for FakeMetadata {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A fake that has panicked has already failed its test.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
