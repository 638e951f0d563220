#![no_main]
//! See the file with the properties.

#[path = "../../tests/hostile/worker_config.rs"]
mod worker_config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| worker_config::check(data));
