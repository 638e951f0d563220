#![no_main]
//! See the file with the properties.

#[path = "../../tests/hostile/gdm.rs"]
mod gdm;

libfuzzer_sys::fuzz_target!(|data: &[u8]| gdm::check(data));
