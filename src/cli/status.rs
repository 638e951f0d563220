//! `start-worker status`: what the runner is doing, for people or programs.

mod words;

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::Value;
use start_worker::clock::{Clock, SystemClock};

use super::socket;

/// How often a screen is drawn anew where nothing changes: how long ago something was does.
const REDRAW: Duration = Duration::from_secs(1);

/// To the upper left, and all below it away. (ECMA-48: CUP, ED)
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What `status` can be asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object; docs/status.md describes it
    #[arg(long)]
    json: bool,

    /// Go on until start-worker ends: a screen that is kept up to date, or, where stdout is no terminal, one record for
    /// every change
    #[arg(long)]
    watch: bool,

    #[command(flatten)]
    socket: socket::Address,
}

/// Runs the command; its exit code.
pub(crate) fn run(arguments: &Arguments) -> u8 {
    if arguments.watch {
        return socket::conclude(watch(arguments).map(|()| String::new()));
    }
    socket::conclude(arguments.socket.ask("status").map(|answer| shown(&answer, arguments.json)))
}

fn shown(answer: &Value, json: bool) -> String {
    if json { format!("{answer}\n") } else { words::in_words(answer, SystemClock.now()) }
}

fn watch(arguments: &Arguments) -> Result<(), String> {
    let screen = !arguments.json && io::stdout().is_terminal();
    let mut last: Option<Value> = None;
    arguments.socket.watch(screen.then_some(REDRAW), |answer| {
        let first = last.is_none();
        last = answer.or(last.take());
        let Some(answer) = &last else { return Ok(ControlFlow::Continue(())) };
        let before = match (screen, first || arguments.json) {
            (true, _) => CLEAR,
            (false, true) => "",
            (false, false) => "\n",
        };
        print(&format!("{before}{}", shown(answer, arguments.json)))
    })
}

/// A reader that goes away (`| head`) needs no more.
fn print(text: &str) -> io::Result<ControlFlow<()>> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(cause) => Err(cause),
    }
}
