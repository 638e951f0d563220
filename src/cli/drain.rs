//! `start-worker drain`: the worker finishes its tasks, then the runner ends.

use super::socket;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Wait until the worker has ended, and tell how
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    socket: socket::Address,
}

/// Runs the command. Returns its exit code.
pub(crate) fn run(arguments: &Arguments) -> u8 {
    socket::conclude(if arguments.wait {
        let ended = |answer| format!("drained: {}\n", socket::text(&answer, "outcome"));
        arguments.socket.ask_to_drain_and_wait().map(ended)
    } else {
        arguments.socket.ask("drain").map(|_| "asked to drain\n".to_owned())
    })
}
