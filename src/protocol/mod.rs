//! The runner / worker protocol: messages, capabilities, and the way from bytes to lines. See `docs/protocol.md`.

pub mod capabilities;
pub mod json;
pub mod message;
mod to_worker;
pub mod transport;
