//! `start-worker drain`: the worker finishes its tasks, then the runner ends, and the host holds.

use std::io::{self, IsTerminal};

use serde_json::json;

use super::{hold, socket};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Wait until the worker has ended, and tell how
    #[arg(long)]
    wait: bool,

    /// Do not hold: the next start of the service starts a worker, unless the worker's own reboot follows the drain
    #[arg(long)]
    once: bool,

    /// The reason, for `start-worker status` and the log
    #[arg(long, value_name = "TEXT", value_parser = hold::reason, conflicts_with = "once")]
    reason: Option<String>,

    #[command(flatten)]
    socket: socket::Address,
}

/// Runs the command. Returns its exit code.
pub(crate) fn run(arguments: &Arguments) -> u8 {
    let Arguments { wait, once, reason, socket } = arguments;
    let request = json!({
        "request": "drain", "wait": wait, "once": once, "by": hold::operator(), "reason": reason
    });
    let answer = if *wait { socket.ask_without_limit(&request) } else { socket.request(&request) };
    socket::conclude(answer.map(|answer| {
        hold::warn_where_not_held(&answer);
        let said = match wait {
            true => format!("drained: {}\n", socket::text(&answer, "outcome")),
            false => "asked to drain\n".to_owned(),
        };
        // For people: scripts know what they ask for.
        let held = !once && answer.get("notHeld").is_none() && io::stdout().is_terminal();
        let hint = if held { "no worker is started on this host until `start-worker resume`\n" } else { "" };
        said + hint
    }))
}
