#![no_main]
//! See the file with the properties.

#[path = "../../tests/hostile/metadata.rs"]
mod metadata;

libfuzzer_sys::fuzz_target!(|data: &[u8]| metadata::check(data));
