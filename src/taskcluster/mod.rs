//! Typed and signed calls to Taskcluster, which are retried while that makes sense.
//!
//! * `api.rs`: one method of [`Client`] for each call. `values.rs`: their parameters and results.
//! * `client.rs`: converts a call to a signed request, and an answer to a value or a failure.
//! * `attempts.rs`: retries a call until it succeeds, is refused or the caller's [`Effort`] is spent.
//! * `connection.rs`: HTTP, TLS and proxies.
//! * `pace.rs`: limits the long-term rate of calls.
//! * `error.rs`: the error text for operators.
//!
//! Dropping a call's future cancels it. A call that Taskcluster refused is never retried; one that was lost on the way
//! always is.

mod api;
mod attempts;
mod client;
mod connection;
mod error;
mod in_flight;
mod names;
mod pace;
mod values;

pub use attempts::Effort;
pub use client::Client;
pub use connection::Proxies;
pub use error::{CallError, ClientError, result_of};
pub use in_flight::InFlight;
pub use names::Names;
pub use pace::{CALL_EVERY, Pace};
pub use values::{
    ProvisionerSecret, RegisterWorker, Registered, Reregistered, ShouldTerminate, WorkerError, WorkerName,
    WorkerPool,
};

#[cfg(test)]
pub(crate) mod tests;
