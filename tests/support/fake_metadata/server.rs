//! The HTTP server: accepts requests, answers them, and applies the requested faults.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::answers::{self, Reply};
use super::{Fault, Request, Shared};

/// Serves until it is stopped, or its owner is gone.
pub(super) fn serve(listener: TcpListener, shared: &Arc<Shared>, stopped: oneshot::Receiver<()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime for the fake");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket for the fake");
        let accept = async {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| handle(request, shared.clone()));
                    let connection = hyper::server::conn::http1::Builder::new();
                    // A client may disconnect before there is an answer.
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        };
        tokio::select! {
            () = accept => {}
            _ = stopped => {}
        }
    });
}

async fn handle(
    request: hyper::Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<hyper::Response<Full<Bytes>>, io::Error> {
    let request = taken(request).await?;
    let mut cleared = shared.cleared.subscribe();
    let fault = fault_for(&request, &shared);
    let busy = Busy::begin(&shared);
    match fault {
        // The fake ends or continues; both are fine.
        Some(Fault::Hang) => drop(busy.apart_from(cleared.changed()).await),
        Some(Fault::Close) => return Err(io::Error::other("closed as asked")),
        Some(Fault::Garbage) => return Ok(response(Reply::new(200, "\u{1}<<garbage{{"), &shared)),
        Some(Fault::Status(status)) => {
            return Ok(response(Reply::html(status, "as asked"), &shared));
        }
        Some(Fault::Delay(time)) => sleep(time).await,
        None => {}
    }
    Ok(response(answers::answer(&request, &shared, &busy).await, &shared))
}

/// A request that is being answered.
pub(super) struct Busy<'a>(&'a Shared);

impl<'a> Busy<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.state().busy += 1;
        Self(shared)
    }

    /// Waits for a condition on which the answer depends, without counting as busy.
    pub(super) async fn apart_from<T>(&self, waiting: impl Future<Output = T>) -> T {
        struct Apart<'a>(&'a Shared);
        impl Drop for Apart<'_> {
            fn drop(&mut self) {
                self.0.state().busy += 1;
            }
        }
        self.0.state().busy -= 1;
        let _apart = Apart(self.0);
        waiting.await
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.state().busy -= 1;
    }
}

/// Records a request. Returns the fault that applies to it.
fn fault_for(request: &Request, shared: &Shared) -> Option<Fault> {
    let mut state = shared.state();
    state.requests.push(request.clone());
    let hit = state.faults.iter().position(|placed| request.target.starts_with(&placed.prefix))?;
    let (once, fault) = (state.faults[hit].once, state.faults[hit].fault);
    if once {
        state.faults.remove(hit);
    }
    Some(fault)
}

async fn taken(request: hyper::Request<Incoming>) -> Result<Request, io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Ok(Request {
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn response(reply: Reply, shared: &Shared) -> hyper::Response<Full<Bytes>> {
    let mut response = hyper::Response::builder().status(reply.status);
    for (name, value) in answers::always(shared.cloud).iter().copied() {
        response = response.header(name, value);
    }
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    response.body(Full::new(Bytes::from(reply.body))).expect("a response of known parts")
}
