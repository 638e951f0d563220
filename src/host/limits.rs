//! The resource limits with which the runner was started.

use std::io;
use std::os::fd::AsFd;

use nix::sys::resource::{Resource, getrlimit};

/// The file descriptors that the runner needs in addition to those it was started with: 6 for the runtime, its signals
/// and the log, 8 to start a worker, 6 for calls, files and `/proc`, 12 for the status socket, metrics and their
/// connections.
const DESCRIPTORS: usize = 32;

/// Checks that enough file descriptors are available. The error gives the number of descriptors and the remedy.
pub fn enough_descriptors() -> Result<(), String> {
    let stderr = io::stderr();
    let tried: io::Result<Vec<_>> = (0..DESCRIPTORS).map(|_| stderr.as_fd().try_clone_to_owned()).collect();
    let Err(cause) = tried else { return Ok(()) };
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    Err(format!(
        "start-worker needs {DESCRIPTORS} file descriptors more than it was started with, and cannot have them: \
         {cause}; the limit is {limit} (see `ulimit -n`, LimitNOFILE=)"
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_enough_descriptors() {
        assert_eq!(super::enough_descriptors(), Ok(()));
    }
}
