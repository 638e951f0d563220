//! The worker's configuration file: written before each start, private to whoever the worker runs as.

use nix::unistd::User;

use crate::host::atomic::{Owner, WriteError};
use crate::worker::ConfigFile;

/// Writes the file, atomically; what was there is replaced, whatever its mode was. Blocks: it ends with an fsync.
pub(super) fn write(file: &ConfigFile, owner: Option<&str>) -> Result<(), WriteError> {
    // A user that does not exist is told about at the spawn, which cannot do without one.
    let user = owner.and_then(|name| User::from_name(name).ok().flatten());
    file.write(user.map(|user| Owner { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
}
