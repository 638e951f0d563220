//! `start-worker hold`: no other worker is started on this host until `start-worker resume`.

use std::path::PathBuf;

use jiff::Timestamp;
use nix::unistd::{Uid, User};
use serde_json::{Value, json};
use start_worker::config;
use start_worker::error_chain::ErrorChain;
use start_worker::host::drain_marker::{self, HoldRecord, LONGEST_TEXT};
use start_worker::host::private_file::Access;

use super::environment::Environment;
use super::socket;

/// The arguments of `hold`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The reason, for `start-worker status` and the log
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,

    /// Let the present worker finish its tasks, then end, as `start-worker drain` does
    #[arg(long)]
    drain: bool,

    #[command(flatten)]
    host: Host,
}

/// The host that is held or resumed: its runner, or its drain marker where no runner listens.
#[derive(Debug, clap::Args)]
pub(crate) struct Host {
    #[command(flatten)]
    pub(super) socket: socket::Address,

    /// The runner configuration, whose cacheOverRestarts tells where the drain marker is, where no start-worker runs and
    /// there is no state directory
    #[arg(long, value_name = "runnerConfig")]
    config: Option<PathBuf>,
}

/// Runs the command; its exit code.
pub(crate) fn run(arguments: &Arguments) -> u8 {
    socket::conclude(hold(arguments))
}

fn hold(arguments: &Arguments) -> Result<String, String> {
    let Arguments { reason, drain, host } = arguments;
    let by = operator();
    if host.socket.is_listened_to()? {
        let request = json!({ "request": "hold", "by": by, "reason": reason });
        let held = host.socket.request(&request)?;
        let mut said = format!("{}\n", socket::text(&held, "hold"));
        if *drain {
            host.socket.request(&json!({ "request": "drain", "by": by }))?;
            said.push_str("asked to drain\n");
        }
        return Ok(said);
    }
    let marker = host.marker()?;
    let record = HoldRecord::new(Some(&by), Timestamp::now(), reason.as_deref());
    let earlier = drain_marker::read(&marker).map_err(|cause| cause.to_string())?;
    let record = match earlier {
        Some(earlier) if reason.is_none() => earlier,
        _ => {
            drain_marker::write(&marker, &record).map_err(|cause| ErrorChain(&cause).to_string())?;
            record
        }
    };
    let (record, at) = (socket::printable(&record.to_string()), marker.display());
    Ok(format!("{record}\nno start-worker runs; the next start finds the mark {at}, and holds\n"))
}

/// A reason that is shown as it was given.
pub(super) fn reason(text: &str) -> Result<String, String> {
    if text.chars().count() > LONGEST_TEXT {
        return Err(format!("longer than {LONGEST_TEXT} characters"));
    }
    if text.chars().any(char::is_control) {
        return Err("it has a line break or another control character; expected one line".to_owned());
    }
    Ok(text.to_owned())
}

/// The operator in words: `root (sudo: alice)`.
pub(super) fn operator() -> String {
    let uid = Uid::effective();
    let user = User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name);
    match Environment::read().sudo_user {
        Some(sudo_user) if sudo_user != user => format!("{user} (sudo: {sudo_user})"),
        _ => user,
    }
}

impl Host {
    /// The drain marker's path, where no runner can be asked.
    pub(super) fn marker(&self) -> Result<PathBuf, String> {
        if let Some(state_directory) = self.socket.state_directory() {
            return Ok(drain_marker::place(Some(&state_directory), None).unwrap_or_default());
        }
        let cache = match &self.config {
            None => None,
            Some(path) => {
                let loaded =
                    config::load(path, Access::Observe).map_err(|cause| super::load_error(&cause))?;
                loaded.config.cache_over_restarts
            }
        };
        drain_marker::place(None, cache.as_deref()).ok_or_else(|| {
            "no start-worker listens, and there is no state directory for its drain marker: set STATE_DIRECTORY, or \
             name a runner configuration that has cacheOverRestarts with --config"
                .to_owned()
        })
    }

    /// Ends the hold.
    pub(super) fn resume(&self) -> Result<String, String> {
        if self.socket.is_listened_to()? {
            let answer = self.socket.request(&json!({ "request": "resume" }))?;
            return Ok(format!("{}\n", socket::text(&answer, "resume")));
        }
        let marker = self.marker()?;
        if drain_marker::read(&marker).map_err(|cause| cause.to_string())?.is_none() {
            return Ok("not holding\n".to_owned());
        }
        drain_marker::remove(&marker).map_err(|cause| format!("still holding: {}", ErrorChain(&cause)))?;
        Ok("resumed\nno start-worker runs: start the service (`systemctl start start-worker`)\n".to_owned())
    }
}

/// The hold of a host whose runner does not listen, in words; `None`: there is none, or it cannot be read.
pub(super) fn without_runner(socket: &socket::Address) -> Option<String> {
    let state_directory = socket.state_directory()?;
    let marker = drain_marker::place(Some(&state_directory), None)?;
    let held = drain_marker::read(&marker).ok()??;
    Some(format!(
        "this host is {}: no worker is started until `start-worker resume`",
        socket::printable(&held.to_string())
    ))
}

/// A refusal or an answer to a drain that names the reason why the host is not held.
pub(super) fn warn_where_not_held(answer: &Value) {
    let reason = socket::text(answer, "notHeld");
    if !reason.is_empty() {
        super::tell(&format!("warning: a worker is started again at the next start: {reason}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_short_line() {
        assert_eq!(reason("new disk"), Ok("new disk".to_owned()));
        assert!(reason("a\nb").is_err());
        assert!(reason(&"x".repeat(LONGEST_TEXT + 1)).is_err());
    }
}
