//! New deployments, reboots that workers ask for, and what the end of a worker means for its host: the real binary,
//! a scripted worker, a fake Taskcluster and, for a cloud's machine, a fake EC2 metadata service.
//!
//! [`host`] is where they meet; the harness and the worker are those of `tests/e2e`.

#[cfg(test)]
#[path = "../support/fake_metadata/mod.rs"]
#[expect(dead_code, reason = "a part of it is used here")]
mod fake_metadata;
#[cfg(test)]
#[path = "../support/fake_taskcluster/mod.rs"]
mod fake_taskcluster;
#[cfg(test)]
mod host;
#[cfg(test)]
mod in_place;
#[cfg(test)]
mod interplay;
#[cfg(test)]
mod leaving;
#[cfg(test)]
mod reboots;
#[cfg(test)]
#[path = "../support/secrets.rs"]
mod secrets;
#[cfg(test)]
#[path = "../e2e/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the harness of tests/e2e, of which this program uses a part")]
mod support;
#[cfg(test)]
mod table;
