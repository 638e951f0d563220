//! All tests that need neither root nor much time, in one program: it is linked once, and they share the processors.
//! `cargo test --test it e2e::stop` runs those of one file.
//!
//! [`harness`] starts the real binary; what other programs need as well is in the crate `test_support`.
#![cfg(test)]

mod architecture;
mod cache;
mod check;
mod clouds;
mod configuration;
mod configuration_docs;
mod configuration_effective;
mod configuration_properties;
mod contract;
mod deployments;
mod documentation;
mod e2e;
mod fake_taskcluster;
mod harness;
mod hostile;
mod monitoring;
mod output;
mod pitfalls;
mod providers;
mod races;
mod readme;
mod redeploy;
mod registration;
mod story;
mod units;
