//! The host: its files, its processes' standing, its power. Knows nothing of Taskcluster.

pub mod atomic;
pub mod private_file;
