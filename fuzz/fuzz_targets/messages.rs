#![no_main]
//! See the file with the properties.

#[path = "../../tests/hostile/messages.rs"]
mod messages;

libfuzzer_sys::fuzz_target!(|data: &[u8]| messages::check(data));
