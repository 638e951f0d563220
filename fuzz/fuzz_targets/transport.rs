#![no_main]
//! See the file with the properties.

use hostile::transport;

libfuzzer_sys::fuzz_target!(|data: &[u8]| transport::check(data));
