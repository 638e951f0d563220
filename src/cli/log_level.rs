//! `start-worker log-level`: a running runner logs more, or less, for a while.

use std::time::Duration;

use serde_json::json;
use start_worker::telemetry::logging::Filter;

use super::socket;

/// The arguments of `log-level`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What is logged: error, warn, info, debug or trace; also per module, as in `info,start_worker::supervisor=debug`;
    /// `configured` is the level of before again
    #[arg(value_name = "LEVEL", value_parser = level)]
    level: String,

    /// After this time, at most a day, the level is the one of before again
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10m")]
    time: Duration,

    #[command(flatten)]
    socket: socket::Address,
}

/// Checks a level; the runner has the last word, because it may be of another version.
fn level(text: &str) -> Result<String, String> {
    if text != "configured" {
        text.parse::<Filter>().map_err(|cause| cause.to_string())?;
    }
    Ok(text.to_owned())
}

/// Runs the command; its exit code.
pub(crate) fn run(arguments: &Arguments) -> u8 {
    let request = json!({
        "request": "log-level", "level": arguments.level, "seconds": arguments.time.as_secs().max(1),
    });
    socket::conclude(arguments.socket.request(&request).map(|answer| {
        let level = socket::text(&answer, "logLevel");
        match socket::text(&answer, "until").as_str() {
            "" => format!("log level: {level}\n"),
            until => format!("log level: {level}, until {until}\n"),
        }
    }))
}
