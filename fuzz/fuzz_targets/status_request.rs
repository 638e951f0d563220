#![no_main]
//! See the file with the properties.

#[path = "../../tests/hostile/status_request.rs"]
mod status_request;

libfuzzer_sys::fuzz_target!(|data: &[u8]| status_request::check(data));
