#![no_main]
//! See the file with the properties.

#[path = "../../tests/hostile/deployment.rs"]
mod deployment;

libfuzzer_sys::fuzz_target!(|data: &[u8]| deployment::check(data));
