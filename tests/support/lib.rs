//! Code shared by tests, examples, benchmarks and fuzz targets: the fakes, broken environments, and the examination of
//! processes and their output.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

pub mod fake_metadata;
pub mod fake_taskcluster;
pub mod flood;
pub mod hung_mount;
pub mod keyfile;
pub mod pids_cgroup;
pub mod processes;
pub mod raw_http;
pub mod record;
pub mod secrets;
