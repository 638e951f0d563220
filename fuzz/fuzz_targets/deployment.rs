#![no_main]
//! See the file with the properties.

use hostile::deployment;

libfuzzer_sys::fuzz_target!(|data: &[u8]| deployment::check(data));
