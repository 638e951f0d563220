#![no_main]
//! See the file with the properties.

#[path = "../../tests/hostile/mask.rs"]
mod mask;

libfuzzer_sys::fuzz_target!(|data: &[u8]| mask::check(data));
