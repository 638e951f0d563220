//! Properties that hold for any input from outside, one file per parser. `fuzz/` uses them as a library, with one
//! target each.
#![cfg_attr(test, expect(unreachable_pub, reason = "the fuzz targets use them"))]

pub mod cache;
pub mod deployment;
pub mod gdm;
pub mod mask;
pub mod messages;
pub mod metadata;
pub mod runner_config;
pub mod status_request;
pub mod transport;
pub mod worker_config;
pub mod zip;
