//! `start-worker resume`: a host that is held may start workers again.

use super::{hold, socket};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    host: hold::Host,
}

/// Runs the command. Returns its exit code.
pub(crate) fn run(arguments: &Arguments) -> u8 {
    socket::conclude(arguments.host.resume())
}
