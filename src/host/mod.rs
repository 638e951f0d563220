//! The host: its files, processes and power. Knows nothing of Taskcluster.

pub mod atomic;
pub mod autologin;
pub mod blocking;
pub mod boot_time;
pub mod cgroup;
pub mod drain_marker;
pub mod execute;
pub mod faults;
pub mod helper;
pub mod limits;
pub mod lock;
pub mod memory;
pub mod mounts;
pub mod oom;
pub mod power;
pub mod private_file;
mod probe;
pub mod processes;
pub mod run_count;
pub mod service_manager;
pub mod terminal;
pub mod trust;
