#![no_main]
//! See the file with the properties.

use hostile::metadata;

libfuzzer_sys::fuzz_target!(|data: &[u8]| metadata::check(data));
