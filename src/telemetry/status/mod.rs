//! The status socket: what a runner is doing, and an operator's drain and resume, for whoever may speak to it.
//!
//! Nothing here can block the runner or fail it: a socket that cannot be had is a warning, connections are bounded in
//! number, time and size, and what they ask for goes through the same channels as signals do.
//!
//! [`socket`] binds it, [`serve`] keeps the connections, [`request`] is what is said on them, and [`answer`] what there
//! is to be told.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::config::StatusSocket;
use crate::host::blocking::Lane;
use crate::stop::StopSignal;
use crate::telemetry::View;

mod answer;
pub mod request;
mod serve;
mod socket;

use serve::Server;
use socket::Place;

/// The socket's name in the runtime directory.
const FILE_NAME: &str = "status.sock";

/// How long binding may take.
const BINDING_TIME: Duration = Duration::from_secs(3);

/// Time limit of its removal.
const REMOVING_TIME: Duration = Duration::from_secs(1);

/// How long the last answers may take to be written.
const LAST_ANSWERS_TIME: Duration = Duration::from_secs(1);

/// Where the socket is unless `status.socket` says otherwise.
pub fn default_path(runtime_directory: &Path) -> PathBuf {
    runtime_directory.join(FILE_NAME)
}

/// An operator's request to let the worker of a drained host start again. Dropped without an answer, the runner is
/// not holding any more.
#[derive(Debug)]
pub struct Resume {
    /// Receives the result: the worker starts, or the reason why the marker cannot be removed.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// What the socket's answers are made from, and where its requests go.
#[derive(Debug)]
pub struct Counterparts {
    /// What there is to be seen.
    pub view: View,
    /// Where a drain goes.
    pub stop: StopSignal,
    /// Where a resume goes.
    pub resumes: mpsc::Sender<Resume>,
}

/// An open status socket.
#[derive(Debug)]
pub struct Status {
    // Before the tasks: while it is removed, the listener still keeps other runners off its path.
    place: Place,
    path: PathBuf,
    lane: Lane,
    tasks: TaskTracker,
    ended: watch::Sender<Option<String>>,
}

/// Opens the socket, where one is wanted and can be had.
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
                "no runtime directory: there is no status socket, and `start-worker status`, `drain` and `resume` cannot reach this runner (set RUNTIME_DIRECTORY or status.socket)"
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
        "cannot open the status socket: `start-worker status`, `drain` and `resume` cannot reach this runner; see status.socket"
    );
    None
}

impl Status {
    /// The runner has ended, with this outcome: tells those who wait for it, and removes the socket.
    pub async fn close(self, outcome: String) {
        let place = self.place;
        if let Err(cause) = self.lane.at(&self.path, REMOVING_TIME, move || drop(place)).await {
            warn!(error = %cause, "the status socket is not removed");
        }
        self.ended.send_replace(Some(outcome));
        self.tasks.close();
        // Who does not read its answer goes without.
        let _ = tokio::time::timeout(LAST_ANSWERS_TIME, self.tasks.wait()).await;
    }
}
