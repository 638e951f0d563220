//! Prometheus metrics and a health check over HTTP: `metrics.listen`.
//!
//! Nothing here can block the runner or make it fail: if the address is not available, a warning is logged; connections
//! are bounded in number, time and size; and nothing runs while idle.
//!
//! [`export`] formats the metrics, [`serve`] handles the connections.

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

/// The metrics endpoint, open until this is dropped.
#[derive(Debug)]
pub struct Metrics {
    accepting: tokio::task::JoinHandle<()>,
    /// Connections that are being answered.
    connections: TaskTracker,
}

/// Time limit for writing the last answers.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// The served view and its clock.
struct Endpoint {
    view: View,
    clock: Arc<dyn Clock>,
}

/// Opens the endpoint, if it is configured and available.
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
    // The system has chosen a port if the configured one was 0.
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
    /// Closes the endpoint: refuses new connections, and waits briefly for pending answers.
    pub async fn close(self) {
        self.accepting.abort();
        self.connections.close();
        let _ = tokio::time::timeout(LAST_ANSWERS, self.connections.wait()).await;
    }
}
