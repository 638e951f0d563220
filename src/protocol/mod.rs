//! The protocol between runner and worker: messages, capabilities, and the conversion from bytes to lines. See
//! `docs/protocol.md`.

pub mod capabilities;
pub mod json;
pub mod message;
mod to_worker;
pub mod transport;
