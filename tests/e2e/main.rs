//! End to end: the real binary, with a worker that behaves or misbehaves as each test asks.
//!
//! [`support`] is the harness. `tests/support/test_worker.rs` describes the worker's language.

#[cfg(test)]
mod autologin;
#[cfg(test)]
mod cgroup;
#[cfg(test)]
mod circumstances;
#[cfg(test)]
mod command_line;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod exits;
#[cfg(test)]
mod files;
#[cfg(test)]
mod host_commands;
#[cfg(test)]
mod hung;
#[cfg(test)]
#[path = "../support/hung_disk.rs"]
mod hung_disk;
#[cfg(test)]
mod leftovers;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod oom;
#[cfg(test)]
mod output;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod secrecy;
#[cfg(test)]
#[path = "../support/secrets.rs"]
mod secrets;
#[cfg(test)]
mod signals;
#[cfg(test)]
mod start;
#[cfg(test)]
mod status;
#[cfg(test)]
mod stop;
#[cfg(test)]
mod stuck;
#[cfg(test)]
mod support;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod terminal;
#[cfg(test)]
mod tired_worker;
#[cfg(test)]
mod worker_file;
