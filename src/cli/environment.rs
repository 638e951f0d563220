//! What the runner reads from its environment: here, and nowhere else.

use std::env;
use std::path::PathBuf;

use start_worker::provider::MetadataOrigins;

/// The environment, as far as it matters.
#[derive(Debug)]
pub(crate) struct Environment {
    /// `START_WORKER_LOG`: what is logged.
    pub(crate) log_level: Option<String>,
    /// systemd's `RUNTIME_DIRECTORY`, else `/run/start-worker` for root and `start-worker` in `XDG_RUNTIME_DIR` for
    /// others.
    pub(crate) runtime_directory: Option<PathBuf>,
    /// systemd's `STATE_DIRECTORY`.
    pub(crate) state_directory: Option<PathBuf>,
    /// `START_WORKER_EC2_METADATA_URL`, `START_WORKER_AZURE_METADATA_URL`, `START_WORKER_GCE_METADATA_URL`: origins, for
    /// tests.
    pub(crate) metadata: MetadataOrigins,
}

impl Environment {
    pub(crate) fn read() -> Self {
        let by_default = || {
            if nix::unistd::geteuid().is_root() {
                return Some(PathBuf::from("/run/start-worker"));
            }
            directory("XDG_RUNTIME_DIR").map(|folder| folder.join("start-worker"))
        };
        Self {
            log_level: text("START_WORKER_LOG"),
            runtime_directory: directory("RUNTIME_DIRECTORY").or_else(by_default),
            state_directory: directory("STATE_DIRECTORY"),
            metadata: MetadataOrigins {
                ec2: text("START_WORKER_EC2_METADATA_URL"),
                azure: text("START_WORKER_AZURE_METADATA_URL"),
                gce: text("START_WORKER_GCE_METADATA_URL"),
            },
        }
    }
}

/// Empty is as not set.
fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

/// systemd names several directories with colons between; the first is the unit's own.
fn directory(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name)?;
    env::split_paths(&value).next().filter(|path| path.is_absolute())
}
