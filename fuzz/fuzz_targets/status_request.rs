#![no_main]
//! See the file with the properties.

use hostile::status_request;

libfuzzer_sys::fuzz_target!(|data: &[u8]| status_request::check(data));
