//! End to end: the real binary, with a worker that behaves or misbehaves as each test asks.
//!
//! [`crate::harness`] starts it. `tests/test_worker/main.rs` describes the worker's language.

mod autologin;
mod cgroup;
mod circumstances;
mod command_line;
mod demo;
mod events;
mod exits;
mod failed_runs;
mod files;
mod hardware;
mod hold;
mod hooks;
mod host_commands;
mod hung;
mod last_run;
mod leftovers;
mod limits;
mod log_file;
mod log_level;
mod oom;
mod output;
mod protocol;
mod restarts;
mod secrecy;
mod signals;
mod start;
mod status;
mod stop;
mod stuck;
mod systemd;
mod terminal;
mod tired_worker;
mod worker_file;
