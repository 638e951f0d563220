//! Checks the fake Taskcluster against recorded answers of the real services, and against an independent Hawk
//! implementation.

mod cross_check;
mod queue;
mod replay;
mod shape;
