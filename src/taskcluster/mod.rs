//! Calls to Taskcluster: signed, tried again while that makes sense, and typed.
//!
//! * `api.rs`: one method of [`Client`] for each call. `values.rs`: what goes in and comes out.
//! * `client.rs`: a call becomes a signed request, an answer becomes a value or a failure.
//! * `attempts.rs`: tries a call until it works, is refused or the caller's [`Effort`] is spent.
//! * `connection.rs`: HTTP, TLS and proxies.
//! * `pace.rs`: how many calls there are in the long run.
//! * `error.rs`: what an operator reads when a call fails.
//!
//! A call is cancelled by dropping its future. What Taskcluster said no to is never tried again; what got lost on the
//! way always is.

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
