//! Detects overlapping workers on one host: each locks a file while it is alive.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use crate::record::Record;

/// Locks `$TEST_WORKER_ALONE`, if it is set. A worker that finds it locked records that. The kernel releases the lock
/// at the worker's death, before any process can observe that. Descendants do not inherit it.
pub(crate) fn claim(record: &Record) -> Option<Flock<File>> {
    let path = std::env::var_os("TEST_WORKER_ALONE")?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).ok()?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            file.set_len(0).ok();
            write!(file, "{}", std::process::id()).ok();
            Some(file)
        }
        Err((mut file, _)) => {
            let mut other = String::new();
            file.read_to_string(&mut other).ok();
            record.event("overlap", json!({"other": other}));
            None
        }
    }
}
