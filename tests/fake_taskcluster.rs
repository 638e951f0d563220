//! The fake Taskcluster's own behaviour, beyond the recorded exchanges: its state, and everything that it can do wrong.

mod by_hand;
mod faults;
mod state;
mod support;
