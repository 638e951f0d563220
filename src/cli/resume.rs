//! `start-worker resume`: a host that holds after a drain starts its worker again.

use super::socket;

/// What `resume` can be asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: socket::Address,
}

/// Runs the command; its exit code.
pub(crate) fn run(arguments: &Arguments) -> u8 {
    let answer = arguments.socket.ask("resume");
    socket::conclude(answer.map(|answer| format!("{}\n", socket::text(&answer, "resume"))))
}
