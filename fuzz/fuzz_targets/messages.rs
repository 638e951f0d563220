#![no_main]
//! See the file with the properties.

use hostile::messages;

libfuzzer_sys::fuzz_target!(|data: &[u8]| messages::check(data));
