//! A FUSE mount whose server does not answer; `hung_disk_server.rs` is the server.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};

/// The event, other than its end, that ends the wait of a process that has accessed the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// SIGKILL: the server does not even receive the request.
    Killable,
    /// Nothing: the process is in state D.
    Endless,
    /// None, but only the last close of a file is not answered.
    Close,
}

/// The mount. Dropping it kills its server process, whereupon the kernel ends every wait with an error. It ends with
/// this process, too, because the pipe of its stdout closes.
pub struct HungMount {
    place: PathBuf,
    server: Child,
}

/// The device for FUSE mounts. It may be opened in another place than it is used.
pub fn device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/fuse")
}

impl HungMount {
    /// Mounts it in this thread's mount namespace. `program`: the test worker, which contains the server.
    pub fn new(place: &Path, device: File, wait: Wait, program: &Path) -> io::Result<Self> {
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("hung"), place, Some("fuse"), MsFlags::empty(), Some(options.as_str()))?;
        let how = match wait {
            Wait::Killable => "killable",
            Wait::Endless => "endless",
            Wait::Close => "close",
        };
        let mut server = Command::new(program);
        server.args(["hung-disk", how]).stdin(device).stdout(Stdio::piped());
        Ok(Self { place: place.to_owned(), server: server.spawn()? })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }
}

impl Drop for HungMount {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}
