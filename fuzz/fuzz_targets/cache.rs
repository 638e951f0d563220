#![no_main]
//! See the file with the properties.

#[path = "../../tests/hostile/cache.rs"]
mod cache;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cache::check(data));
