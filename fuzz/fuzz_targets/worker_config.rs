#![no_main]
//! See the file with the properties.

use hostile::worker_config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| worker_config::check(data));
