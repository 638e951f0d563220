//! Sibling tasks: one file each. A sibling watches one thing and sends [`Event`](crate::event::Event)s; it never touches
//! the worker.

pub mod credentials;
pub mod signals;
