//! Numbers for Prometheus, and a word on the runner's health, over HTTP: `metrics.listen`.
//!
//! Nothing here can block the runner or fail it: an address that cannot be had is a warning, connections are bounded in
//! number, time and size, and at rest nothing runs.
//!
//! [`export`] makes the numbers, [`serve`] keeps the connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::telemetry::View;

mod export;
mod serve;

pub use export::{Kind, METRICS, Metric};

/// Where numbers are served; until it is dropped.
#[derive(Debug)]
pub struct Metrics {
    accepting: tokio::task::JoinHandle<()>,
    /// Connections that are being answered.
    connections: TaskTracker,
}

/// How long the last answers may take to be written.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// What is served, and by which clock.
struct Endpoint {
    view: View,
    clock: Arc<dyn Clock>,
}

/// Listens, where that is wanted and can be.
pub async fn open(listen: Option<SocketAddr>, view: View, clock: Arc<dyn Clock>) -> Option<Metrics> {
    let wanted = listen?;
    let listener = match TcpListener::bind(wanted).await {
        Ok(listener) => listener,
        Err(cause) => {
            warn!(name: "metrics-failed",
                address = %wanted, error = %cause,
                "cannot listen for metrics: going on without; see metrics.listen"
            );
            return None;
        }
    };
    // Where the port was 0, the system has chosen one.
    let address = listener.local_addr().unwrap_or(wanted);
    if !address.ip().is_loopback() {
        warn!(
            %address,
            "metrics.listen is no loopback address: whoever reaches it can read the worker's name and what it does"
        );
    }
    info!(name: "metrics-started", %address, "serving /metrics and /healthz");
    let (connections, endpoint) = (TaskTracker::new(), Arc::new(Endpoint { view, clock }));
    let accepting = tokio::spawn(serve::serve(listener, endpoint, connections.clone()));
    Some(Metrics { accepting, connections })
}

impl Metrics {
    /// The runner has ended: nobody else is let in, and who is being answered gets a moment.
    pub async fn close(self) {
        self.accepting.abort();
        self.connections.close();
        let _ = tokio::time::timeout(LAST_ANSWERS, self.connections.wait()).await;
    }
}
