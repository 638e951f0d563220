//! Registration end to end: the real binary, a scripted worker, and a Taskcluster that fails in every way it can.
//!
//! [`site`] is where the two meet; the harness is `tests/harness`.

mod cache;
mod cache_faults;
mod exhausted;
mod faults;
mod go_cache;
mod hung;
mod pace;
mod pool_secrets;
mod provenance;
mod refusals;
mod renewal;
mod reports;
mod secrecy;
mod site;
mod start;
mod static_worker;
mod unfit;
