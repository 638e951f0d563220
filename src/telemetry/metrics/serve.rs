//! Handles the HTTP connections, with limits on their number, their time and the size of their heads, and one request
//! each.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{Endpoint, export};

/// Maximum number of connections. Further ones wait until they are accepted.
const CONNECTIONS: usize = 16;

/// Time limit of a connection, from its first byte to its last.
const TIME: Duration = Duration::from_secs(10);

/// Maximum size of a request's head, in bytes; hyper's minimum.
const LONGEST_HEAD: usize = 8192;

/// Delay of a retry after a failed accept (no more file descriptors).
const AFTER_FAILURE: Duration = Duration::from_millis(500);

const TEXT: &str = "text/plain; charset=utf-8";

/// Accepts connections without end.
pub(super) async fn serve(listener: TcpListener, endpoint: Arc<Endpoint>, connections: TaskTracker) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let endpoint = endpoint.clone();
                connections.spawn(async move {
                    keep(stream, endpoint).await;
                    drop(place);
                });
            }
            Err(cause) => {
                warn!(error = %cause, "cannot accept a connection for metrics");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

async fn keep(stream: TcpStream, endpoint: Arc<Endpoint>) {
    let service = service_fn(move |request| {
        let endpoint = endpoint.clone();
        async move { Ok::<_, Infallible>(answer(&request, &endpoint).await) }
    });
    let connection = http1::Builder::new()
        // One request a connection, so that no idle connection has to be timed out.
        .keep_alive(false)
        .half_close(false)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => debug!(error = %cause, "a connection for metrics has ended"),
        Err(_) => debug!("a connection for metrics took too long"),
    }
}

/// Answers a request. Its body, if there is one, is not read.
async fn answer(request: &Request<Incoming>, endpoint: &Endpoint) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let now = endpoint.clock.now();
    match request.uri().path() {
        "/metrics" => match export::text(&endpoint.view, now) {
            Ok(text) => response(StatusCode::OK, export::CONTENT_TYPE, text),
            Err(cause) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{cause}\n")),
        },
        "/healthz" => match endpoint.view.live_health(now).await {
            Ok(()) => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
            Err(why) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        },
        _ => response(StatusCode::NOT_FOUND, TEXT, "there is /metrics, and /healthz\n".to_owned()),
    }
}

fn response(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}
