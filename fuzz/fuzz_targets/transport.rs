#![no_main]
//! See the file with the properties.

#[path = "../../tests/hostile/transport.rs"]
mod transport;

libfuzzer_sys::fuzz_target!(|data: &[u8]| transport::check(data));
