//! start-worker: starts and supervises the worker of a Taskcluster worker machine.

pub mod clock;
pub mod config;
pub mod credentials;
pub mod event;
pub mod host;
pub mod output;
pub mod protocol;
pub mod redact;
pub mod run;
pub mod worker;
