//! Sibling tasks, one file each. A sibling watches one thing and sends [`Event`](crate::event::Event)s; it never
//! touches the worker.

#[cfg(test)]
mod clock_tests;
pub mod credentials;
pub mod deployment;
pub mod expiry;
pub mod interruption;
pub mod reports;
pub mod signals;
