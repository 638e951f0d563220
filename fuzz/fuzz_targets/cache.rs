#![no_main]
//! See the file with the properties.

use hostile::cache;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cache::check(data));
