//! New deployments, reboots that workers ask for, and what the end of a worker means for its host: the real binary,
//! a scripted worker, a fake Taskcluster and, for a cloud's machine, a fake EC2 metadata service.
//!
//! [`host`] is where they meet; the harness is `tests/harness`.

mod host;
mod in_place;
mod interplay;
mod leaving;
mod reboots;
mod table;
