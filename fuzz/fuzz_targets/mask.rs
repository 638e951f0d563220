#![no_main]
//! See the file with the properties.

use hostile::mask;

libfuzzer_sys::fuzz_target!(|data: &[u8]| mask::check(data));
