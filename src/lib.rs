//! start-worker: starts and supervises the worker of a Taskcluster worker machine.
//!
//! # Theory of operation
//!
//! `main` reads the arguments, the environment and the runner configuration ([`config`]), starts the output thread
//! ([`output`]) and calls [`run()`].
//!
//! First, the host's automatic login ([`mod@autologin`]) is set, if the configuration names a user.
//!
//! 1. **Prepare** ([`startup`]): the provider ([`provider`]) identifies the worker; the worker is registered
//!    ([`registration`], [`taskcluster`]), and the worker configuration is merged from its sources ([`run_spec`]). The
//!    result is a [`run_spec::Run`], which is cached; the worker's implementation ([`worker`]) converts it to a
//!    [`worker::LaunchSpec`]: program, arguments, configuration file, the meaning of exits.
//! 2. **Supervise** ([`supervisor`]): one task owns the worker's process. Its loop only creates [`event::Event`]s; a
//!    pure state machine ([`supervisor::state`]) decides; the loop acts. Sibling tasks ([`watch`]) watch signals,
//!    credentials, deployments and interruptions, and send events. The worker's output is processed separately by the
//!    output thread, which passes protocol messages ([`protocol`]) to the supervisor.
//! 3. **Conclude** ([`lifecycle`]): the [`event::Outcome`] has consequences: the machine leaves worker-manager, or the
//!    worker registers again and the cycle restarts; otherwise the outcome becomes the exit code, once the last lines
//!    are written.
//!
//! During all of this, [`telemetry::status_board`] holds the runner's state, which the status socket
//! ([`telemetry::status`]) and the metrics show.
//!
//! Everything except the output thread runs on the runtime's single thread. Calls that can hang are made on three other
//! threads, and the main thread executes workers ([`host::blocking`]).

pub mod autologin;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod error_chain;
pub mod event;
pub mod failure_log;
pub mod hold;
pub mod host;
pub mod lifecycle;
pub mod output;
pub mod protocol;
pub mod provider;
pub mod quota;
pub mod redact;
pub mod registration;
pub mod retry;
pub mod run_spec;
pub mod startup;
pub mod stop;
pub mod supervisor;
pub mod taskcluster;
pub mod telemetry;
pub mod watch;
pub mod worker;

pub use lifecycle::runner::{Host, LAST_LINES_TIME, RunError, run};
