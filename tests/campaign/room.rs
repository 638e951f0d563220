//! A limit on the number of processes, for hosts whose tasks are fork bombs: a cgroup with `pids.max` or, without root,
//! a limit on the account's processes.

use std::fs;
use std::path::Path;
use std::process::Command;

use test_support::pids_cgroup::PidsCgroup;

/// Enough for a runner, its worker, the worker's leftovers, and a bomb.
const MOST: u64 = 64;

pub(crate) enum Room {
    Unlimited,
    Cgroup(PidsCgroup),
    /// `RLIMIT_NPROC`.
    Account,
}

impl Room {
    /// `Err`: why a bomb cannot be limited here, so that there must be none.
    pub(crate) fn little() -> Result<Self, String> {
        let is_root = nix::unistd::geteuid().is_root();
        match PidsCgroup::new(MOST) {
            Ok(cgroup) => Ok(Self::Cgroup(cgroup)),
            Err(_) if !is_root => Ok(Self::Account),
            Err(cause) => Err(format!("{cause}; and RLIMIT_NPROC does not hold root")),
        }
    }

    /// Executes this program in it, with whatever arguments follow.
    pub(crate) fn command(&self, program: &Path) -> Command {
        match self {
            Self::Unlimited => Command::new(program),
            Self::Cgroup(cgroup) => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", "echo 0 >\"$0/cgroup.procs\" && exec \"$@\""]);
                command.arg(cgroup.path()).arg(program);
                command
            }
            Self::Account => {
                let limit = threads_of_account() + MOST;
                let mut command = Command::new("prlimit");
                command.arg(format!("--nproc={limit}:{limit}")).arg(program);
                command
            }
        }
    }

    /// Returns true if a process or a thread was refused.
    pub(crate) fn was_full(&self) -> bool {
        match self {
            Self::Unlimited => false,
            Self::Cgroup(cgroup) => cgroup.refusals() > 0,
            // There is no counter for the account's processes.
            Self::Account => true,
        }
    }
}

/// All that counts against `RLIMIT_NPROC`.
fn threads_of_account() -> u64 {
    use std::os::unix::fs::MetadataExt;
    let own = nix::unistd::getuid().as_raw();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mine = entries.filter(|entry| entry.metadata().is_ok_and(|about| about.uid() == own));
    let tasks = mine.filter_map(|entry| fs::metadata(entry.path().join("task")).ok());
    tasks.map(|folder| folder.nlink().saturating_sub(2)).sum()
}
