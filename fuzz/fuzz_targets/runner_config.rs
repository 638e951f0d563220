#![no_main]
//! See the file with the properties.

#[path = "../../tests/hostile/runner_config.rs"]
mod runner_config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| runner_config::check(data));
