//! Holds the fake Taskcluster to what the real services were recorded to answer, and to a Hawk implementation that is
//! neither ours nor the client's.

mod cross_check;
mod replay;
mod shape;
