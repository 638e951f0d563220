//! New deployments, reboots that workers request, and the effect of a worker's end on its host: the real binary, a
//! scripted worker, a fake Taskcluster and, for a cloud's machine, a fake EC2 metadata service.
//!
//! [`host`] combines them; the harness is `tests/harness`.

mod host;
mod in_place;
mod interplay;
mod leaving;
mod reboots;
mod table;
