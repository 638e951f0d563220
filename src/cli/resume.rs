//! `start-worker resume`: restarts the worker of a host that holds after a drain.

use super::socket;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: socket::Address,
}

/// Runs the command. Returns its exit code.
pub(crate) fn run(arguments: &Arguments) -> u8 {
    let answer = arguments.socket.ask("resume");
    socket::conclude(answer.map(|answer| format!("{}\n", socket::text(&answer, "resume"))))
}
