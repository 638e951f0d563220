#![no_main]
//! See the file with the properties.

#[path = "../../tests/hostile/zip.rs"]
mod zip;

libfuzzer_sys::fuzz_target!(|data: &[u8]| zip::check(data));
