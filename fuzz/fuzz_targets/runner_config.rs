#![no_main]
//! See the file with the properties.

use hostile::runner_config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| runner_config::check(data));
