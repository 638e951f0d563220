//! The status socket: what a runner is doing, and an operator's drain, hold and resume. Root and the runner's own user may use it.
//!
//! Nothing here can block the runner or make it fail: if the socket is not available, a warning is logged; connections
//! are bounded in number, time and size; and requests use the same channels as signals.
//!
//! [`socket`] binds the socket, [`serve`] handles the connections, [`request`] defines the requests and answers, and
//! [`answer`] the status.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::config::StatusSocket;
use crate::hold::Hold;
use crate::host::blocking::Lane;
use crate::stop::StopSignal;
use crate::telemetry::View;
use crate::telemetry::logging::LogLevel;

mod answer;
pub mod request;
mod serve;
mod socket;

use serve::Server;
use socket::Place;

/// The socket's name in the runtime directory.
const FILE_NAME: &str = "status.sock";

/// Time limit for binding the socket.
const BINDING_TIME: Duration = Duration::from_secs(3);

/// Time limit for removing the socket.
const REMOVING_TIME: Duration = Duration::from_secs(1);

/// Time limit for writing the last answers.
const LAST_ANSWERS_TIME: Duration = Duration::from_secs(1);

/// The default of `status.socket`.
pub fn default_path(runtime_directory: &Path) -> PathBuf {
    runtime_directory.join(FILE_NAME)
}

/// An operator's request to restart the worker of a drained host. If it is dropped without an answer, the runner is not
/// holding any more.
#[derive(Debug)]
pub struct Resume {
    /// Receives the result: the worker starts, or the reason why the marker cannot be removed.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// The operators' requests to resume, for whatever keeps the worker from being started. Clones share one queue.
#[derive(Debug, Clone)]
pub struct Resumes(Arc<tokio::sync::Mutex<mpsc::Receiver<Resume>>>);

impl Resumes {
    /// Receives what is sent on this channel.
    pub fn new(requests: mpsc::Receiver<Resume>) -> Self {
        Self(Arc::new(tokio::sync::Mutex::new(requests)))
    }

    /// Waits for the next request.
    pub async fn next(&self) -> Resume {
        match self.0.lock().await.recv().await {
            Some(resume) => resume,
            None => std::future::pending().await,
        }
    }
}

/// The source of the answers, and the receivers of the requests.
#[derive(Debug)]
pub struct Counterparts {
    pub view: View,
    /// Receives drains.
    pub stop: StopSignal,
    /// The hold that `hold`, `drain` and `resume` change.
    pub hold: Hold,
    /// Receives the requests of operators who do not want to wait for the next start.
    pub resumes: mpsc::Sender<Resume>,
    /// The level of the runner's log.
    pub log: LogLevel,
}

/// An open status socket.
#[derive(Debug)]
pub struct Status {
    // Declared before the tasks: while it is dropped, the listener still keeps other runners off its path.
    place: Place,
    path: PathBuf,
    lane: Lane,
    tasks: TaskTracker,
    ended: watch::Sender<Option<String>>,
}

/// Opens the socket, if it is configured and available.
pub async fn open(
    socket: &StatusSocket,
    runtime_directory: Option<&Path>,
    counterparts: Counterparts,
    lane: Lane,
) -> Option<Status> {
    let path = match (socket, runtime_directory) {
        (StatusSocket::None, _) => return None,
        (StatusSocket::At(path), _) => path.clone(),
        (StatusSocket::Default, Some(folder)) => default_path(folder),
        (StatusSocket::Default, None) => {
            warn!(name: "status-socket-failed",
                "no runtime directory: there is no status socket, and `start-worker status`, `drain`, `hold` and `resume` cannot reach this runner (set RUNTIME_DIRECTORY or status.socket)"
            );
            return None;
        }
    };
    let (runtime, place) = (Handle::current(), path.clone());
    let bound = lane.at(&path, BINDING_TIME, move || runtime.block_on(socket::bind(&place))).await;
    let cause = match bound {
        Ok(Ok((listener, place))) => {
            debug!(path = %path.display(), "status socket is open");
            let (ended, end) = watch::channel(None);
            let tasks = TaskTracker::new();
            let server = Arc::new(Server {
                counterparts,
                waiting: Arc::new(Semaphore::new(serve::WAITING)),
                ended: end,
            });
            tasks.spawn(serve::serve(listener, server, tasks.clone()));
            return Some(Status { place, path, lane, tasks, ended });
        }
        Ok(Err(cause)) => cause.to_string(),
        Err(cause) => cause.to_string(),
    };
    warn!(name: "status-socket-failed",
        path = %path.display(), error = cause,
        "cannot open the status socket: `start-worker status`, `drain`, `hold` and `resume` cannot reach this runner; see status.socket"
    );
    None
}

impl Status {
    /// Reports the runner's outcome to waiting clients, and removes the socket.
    pub async fn close(self, outcome: String) {
        let place = self.place;
        if let Err(cause) = self.lane.at(&self.path, REMOVING_TIME, move || drop(place)).await {
            warn!(error = %cause, "the status socket is not removed");
        }
        self.ended.send_replace(Some(outcome));
        self.tasks.close();
        // A client that does not read its answer is disconnected.
        let _ = tokio::time::timeout(LAST_ANSWERS_TIME, self.tasks.wait()).await;
    }
}
