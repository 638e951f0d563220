#![no_main]
//! See the file with the properties.

use hostile::zip;

libfuzzer_sys::fuzz_target!(|data: &[u8]| zip::check(data));
