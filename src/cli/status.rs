//! `start-worker status`: shows the runner's status, for people or programs.

mod screen;
mod words;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};
use start_worker::clock::{Clock, SystemClock};
use start_worker::event::Phase;

use super::environment::Environment;
use super::{colour, hold, socket, tell};
use screen::Screen;

/// Interval at which an unchanged screen is redrawn, to update relative times.
const REDRAW: Duration = Duration::from_secs(1);

/// Interval at which `--wait` checks the time and looks for a start-worker.
const LOOK_AT_THE_TIME: Duration = Duration::from_millis(100);

/// Moves the cursor to the upper left and erases the screen. (ECMA-48: CUP, ED)
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object, on one line
    #[arg(long)]
    json: bool,

    /// Go on until start-worker ends: a screen that is kept up to date, or, where stdout is no terminal, one record for
    /// every change
    #[arg(long)]
    watch: bool,

    /// Wait until start-worker is in this state, print the status then; exit code 1 where it is not within --timeout
    #[arg(long, value_name = "STATE", value_parser = PossibleValuesParser::new(Phase::ALL.map(state_argument)), conflicts_with = "watch")]
    wait: Option<String>,

    /// Time limit of --wait
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5m", requires = "wait")]
    timeout: Duration,

    #[command(flatten)]
    socket: socket::Address,
}

/// Runs the command. Returns its exit code.
pub(crate) fn run(arguments: &Arguments) -> u8 {
    let screen = Screen::of_stdout(Environment::read().columns);
    let result = match &arguments.wait {
        _ if arguments.watch => watch(arguments).map(|()| String::new()),
        Some(state) => wait(arguments, state).map(|answer| shown(&answer, arguments.json, screen)),
        None => {
            let answer = arguments.socket.ask("status");
            let answer = answer.map_err(|cause| cause + &hold_without_runner(&arguments.socket));
            answer.map(|answer| shown(&answer, arguments.json, screen))
        }
    };
    if result.is_err() && !arguments.socket.is_listened_to().unwrap_or(true) {
        show_last_run(arguments, screen);
    }
    socket::conclude(result)
}

/// Shows how the newest run ended, where no start-worker is there to be asked and it left a record.
fn show_last_run(arguments: &Arguments, screen: Option<Screen>) {
    let text = match arguments.socket.last_run() {
        Ok(None) => return,
        Ok(Some(record)) if arguments.json => socket::json_line(&json!({ "lastRun": record })),
        Ok(Some(record)) => {
            let columns = screen.and_then(|screen| screen.columns);
            coloured(words::last_run(&record, SystemClock.now(), columns))
        }
        Err(cause) => {
            return tell(&format!("warning: the last run is not shown: {}", socket::printable(&cause)));
        }
    };
    // The error that follows is what counts.
    let _ = print(&text);
}

/// The hold that would keep a runner from starting a worker, where none listens; empty: there is none.
fn hold_without_runner(socket: &socket::Address) -> String {
    if socket.is_listened_to().unwrap_or(true) {
        return String::new();
    }
    hold::without_runner(socket).map_or_else(String::new, |held| format!("; {held}"))
}

/// A state as the command line has it: without a space.
fn state_argument(phase: Phase) -> &'static str {
    match phase {
        Phase::BackingOff => "backing-off",
        Phase::AwaitingReboot => "awaiting-reboot",
        phase => phase.name(),
    }
}

/// Waits for a state, also while start-worker is not running yet or restarts.
fn wait(arguments: &Arguments, wanted: &str) -> Result<Value, String> {
    let wanted = wanted.replace('-', " ");
    let until = Instant::now() + arguments.timeout;
    let mut last = None;
    loop {
        let mut reached = false;
        let watched = arguments.socket.watch(Some(LOOK_AT_THE_TIME), |answer| {
            last = answer.or(last.take());
            reached = last.as_ref().is_some_and(|answer| socket::text(answer, "state") == wanted);
            let over = reached || Instant::now() >= until;
            Ok(if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        if let Some(answer) = last.take_if(|_| reached) {
            return Ok(answer);
        }
        if let (Err(cause), true) = (&watched, arguments.socket.is_listened_to()?) {
            return Err(cause.clone());
        }
        if Instant::now() >= until {
            return Err(not_reached(arguments, &wanted, watched, last.as_ref()));
        }
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "a command of its own has nothing else to do")]
fn pause() {
    std::thread::sleep(LOOK_AT_THE_TIME);
}

/// The error if a state was not reached in time.
fn not_reached(
    arguments: &Arguments,
    wanted: &str,
    watched: Result<(), String>,
    last: Option<&Value>,
) -> String {
    let limit = humantime::format_duration(arguments.timeout);
    let now = match (watched, last) {
        (Err(cause), _) => cause,
        (Ok(()), None) => "start-worker does not answer".to_owned(),
        (Ok(()), Some(answer)) => {
            let details = ["reason", "unhealthy"].map(|field| socket::text(answer, field));
            let details = details.into_iter().filter(|detail| !detail.is_empty());
            std::iter::once(socket::text(answer, "state")).chain(details).collect::<Vec<_>>().join("; ")
        }
    };
    format!("not {wanted} within {limit}: {now}")
}

fn shown(answer: &Value, json: bool, screen: Option<Screen>) -> String {
    if json {
        return socket::json_line(answer);
    }
    coloured(in_words(answer, screen))
}

fn in_words(answer: &Value, screen: Option<Screen>) -> String {
    words::in_words(answer, SystemClock.now(), screen.and_then(|screen| screen.columns))
}

fn coloured(text: String) -> String {
    if colour::is_wanted(&io::stdout()) { colour::status(&text) } else { text }
}

fn watch(arguments: &Arguments) -> Result<(), String> {
    let columns = Environment::read().columns;
    let drawn = !arguments.json && Screen::of_stdout(columns).is_some();
    let mut last: Option<Value> = None;
    arguments.socket.watch(drawn.then_some(REDRAW), |answer| {
        let first = last.is_none();
        last = answer.or(last.take());
        let Some(answer) = &last else { return Ok(ControlFlow::Continue(())) };
        // Queried each time, because the terminal may have been resized.
        if let Some(screen) = Screen::of_stdout(columns).filter(|_| drawn) {
            let text = screen.fit(&in_words(answer, Some(screen)));
            return print(&format!("{CLEAR}{}", coloured(text)));
        }
        let before = if first || arguments.json { "" } else { "\n" };
        print(&format!("{before}{}", shown(answer, arguments.json, None)))
    })
}

/// Prints a text. A reader that closes the pipe (`| head`) is not an error.
fn print(text: &str) -> io::Result<ControlFlow<()>> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(cause) => Err(cause),
    }
}
