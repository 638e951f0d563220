//! The sink and the format of the log.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use start_worker::config::LogFormat;
use start_worker::output::Format;

use super::environment::Environment;

/// The log's sink.
pub(crate) struct Log {
    pub(crate) sink: OwnedFd,
    pub(crate) format: Format,
    /// A warning if the configured sink is not available.
    pub(crate) warning: Option<String>,
}

impl Log {
    /// Opens the sink for `logging.implementation`.
    pub(crate) fn open(wanted: LogFormat, environment: &Environment) -> io::Result<Self> {
        let mut warning = None;
        if wanted == LogFormat::Journald {
            match journal(&environment.journal_socket) {
                Ok(sink) => return Ok(Self { sink, format: Format::Journald, warning }),
                Err(cause) => {
                    let path = environment.journal_socket.display();
                    warning = Some(format!(
                        "logging.implementation journald: no journal listens at {path} ({cause}); using stdio"
                    ));
                }
            }
        }
        let sink = io::stderr().as_fd().try_clone_to_owned()?;
        let format = match wanted {
            LogFormat::Json => Format::Json,
            _ if is_read_by_journal(&sink, environment) => Format::Prioritised,
            _ => Format::Text,
        };
        Ok(Self { sink, format, warning })
    }
}

fn journal(path: &Path) -> io::Result<OwnedFd> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket.into())
}

/// Returns true if the journal reads this file line by line, each with a priority prefix.
pub(crate) fn is_read_by_journal(file: impl AsFd, environment: &Environment) -> bool {
    environment.journal_stream.as_deref().is_some_and(|stream| is(stream, file))
}

/// Returns true if `JOURNAL_STREAM` (`device:inode`, systemd.exec(5)) names this file, which may have been redirected
/// since.
fn is(stream: &str, file: impl AsFd) -> bool {
    nix::sys::stat::fstat(file).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_known_by_device_and_inode() {
        let (_reader, writer) = io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        let stat = nix::sys::stat::fstat(&writer).unwrap();
        assert!(is(&format!("{}:{}", stat.st_dev, stat.st_ino), &writer));
        for other in ["", "8:1", &format!("{}:{}", stat.st_dev, stat.st_ino + 1), &format!("{}", stat.st_ino)]
        {
            assert!(!is(other, &writer), "{other}");
        }
    }
}
