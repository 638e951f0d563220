//! The fake Taskcluster's own behaviour, beyond the recorded exchanges: its state, and everything that it can do wrong.

#[path = "support/fake_taskcluster/mod.rs"]
mod fake_taskcluster;
#[path = "support/raw_http/mod.rs"]
mod raw_http;

#[cfg(test)]
mod fake {
    mod by_hand;
    mod faults;
    mod state;
    mod support;
}
