//! Holds the fake Taskcluster to what the real services were recorded to answer, and to a Hawk implementation that is
//! neither ours nor the client's.

#[path = "support/fake_taskcluster/mod.rs"]
mod fake_taskcluster;
#[path = "support/raw_http/mod.rs"]
mod raw_http;

#[cfg(test)]
mod contract {
    mod cross_check;
    mod replay;
    mod shape;
}
