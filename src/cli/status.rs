//! `start-worker status`: what the runner is doing, for people or programs.

mod screen;
mod words;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::Value;
use start_worker::clock::{Clock, SystemClock};

use super::environment::Environment;
use super::socket;
use screen::Screen;

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
    let screen = Screen::of_stdout(Environment::read().columns);
    socket::conclude(arguments.socket.ask("status").map(|answer| shown(&answer, arguments.json, screen)))
}

fn shown(answer: &Value, json: bool, screen: Option<Screen>) -> String {
    if json {
        return socket::json_line(answer);
    }
    words::in_words(answer, SystemClock.now(), screen.and_then(|screen| screen.columns))
}

fn watch(arguments: &Arguments) -> Result<(), String> {
    let columns = Environment::read().columns;
    let drawn = !arguments.json && Screen::of_stdout(columns).is_some();
    let mut last: Option<Value> = None;
    arguments.socket.watch(drawn.then_some(REDRAW), |answer| {
        let first = last.is_none();
        last = answer.or(last.take());
        let Some(answer) = &last else { return Ok(ControlFlow::Continue(())) };
        // Asked for anew each time: the terminal may have been resized.
        if let Some(screen) = Screen::of_stdout(columns).filter(|_| drawn) {
            return print(&format!("{CLEAR}{}", screen.fit(&shown(answer, false, Some(screen)))));
        }
        let before = if first || arguments.json { "" } else { "\n" };
        print(&format!("{before}{}", shown(answer, arguments.json, None)))
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
