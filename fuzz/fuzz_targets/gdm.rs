#![no_main]
//! See the file with the properties.

use hostile::gdm;

libfuzzer_sys::fuzz_target!(|data: &[u8]| gdm::check(data));
