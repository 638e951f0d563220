//! Registration end to end: the real binary, a scripted worker, and a Taskcluster that fails in every way it can.
//!
//! [`site`] is where the two meet; the harness and the worker are those of `tests/e2e`.

#[cfg(test)]
mod cache;
#[cfg(test)]
mod cache_faults;
#[cfg(test)]
mod exhausted;
#[cfg(test)]
#[path = "../support/fake_taskcluster/mod.rs"]
mod fake_taskcluster;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod go_cache;
#[cfg(test)]
mod hung;
#[cfg(test)]
#[path = "../support/hung_disk.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod hung_disk;
#[cfg(test)]
mod pace;
#[cfg(test)]
#[path = "../support/pids_cgroup.rs"]
mod pids_cgroup;
#[cfg(test)]
mod pool_secrets;
#[cfg(test)]
mod provenance;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod renewal;
#[cfg(test)]
mod reports;
#[cfg(test)]
mod secrecy;
#[cfg(test)]
#[path = "../support/secrets.rs"]
mod secrets;
#[cfg(test)]
mod site;
#[cfg(test)]
mod start;
#[cfg(test)]
#[path = "../e2e/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the harness of tests/e2e, of which this program uses a part")]
mod support;
