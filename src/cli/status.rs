//! `start-worker status`: what the runner is doing, for people or programs.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::Value;
use start_worker::clock::{Clock, SystemClock};

use super::socket::{self, text};

/// What `status` can be asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    socket: socket::Address,
}

/// Runs the command; its exit code.
pub(crate) fn run(arguments: &Arguments) -> u8 {
    let shown = |answer: Value| {
        if arguments.json { format!("{answer}\n") } else { in_words(&answer, SystemClock.now()) }
    };
    socket::conclude(arguments.socket.ask("status").map(shown))
}

/// What is known, one line each.
fn in_words(answer: &Value, now: Timestamp) -> String {
    let number = |field: &str| answer.get(field).and_then(Value::as_u64);
    let since = text(answer, "since");
    let state = match ago(since, now) {
        Some(ago) => format!("{}, since {since} ({ago})", text(answer, "state")),
        None => text(answer, "state").to_owned(),
    };
    let lines = [
        ("state", state),
        ("reason", text(answer, "reason").to_owned()),
        ("worker", number("workerPid").map(|pid| format!("pid {pid}")).unwrap_or_default()),
        ("worker pool", text(answer, "workerPoolID").to_owned()),
        ("worker group", text(answer, "workerGroup").to_owned()),
        ("worker id", text(answer, "workerID").to_owned()),
        ("root URL", text(answer, "rootURL").to_owned()),
        ("provider", text(answer, "providerType").to_owned()),
        ("credentials expire", text(answer, "credentialsExpire").to_owned()),
        ("start-worker", format!("{}, pid {}", text(answer, "version"), number("pid").unwrap_or_default())),
    ];
    let known = || lines.iter().filter(|(_, value)| !value.is_empty());
    let width = known().map(|(name, _)| name.len() + 2).max().unwrap_or_default();
    let mut shown = String::new();
    for (name, value) in known() {
        // Writing to a String cannot fail.
        let _ = writeln!(shown, "{name:<width$}{value}");
    }
    shown
}

/// How long ago that was, to the second.
fn ago(time: &str, now: Timestamp) -> Option<humantime::FormattedDuration> {
    let elapsed = now.as_second().checked_sub(time.parse::<Timestamp>().ok()?.as_second())?;
    let elapsed = std::time::Duration::from_secs(u64::try_from(elapsed).unwrap_or_default());
    Some(humantime::format_duration(elapsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_a_few_aligned_lines() {
        let now = "2026-11-23T20:15:01Z".parse().unwrap();
        let answer = serde_json::json!({
            "state": "draining", "since": "2026-11-23T19:12:00Z", "reason": "operator", "workerPid": 4711,
            "workerPoolID": "releng/linux", "workerGroup": "office", "workerID": "bench-01",
            "rootURL": "https://tc.example.com", "providerType": "static",
            "credentialsExpire": "2026-11-27T19:12:00Z", "version": "0.1.0", "pid": 4700,
        });
        insta::assert_snapshot!(in_words(&answer, now), @"
        state               draining, since 2026-11-23T19:12:00Z (1h 3m 1s)
        reason              operator
        worker              pid 4711
        worker pool         releng/linux
        worker group        office
        worker id           bench-01
        root URL            https://tc.example.com
        provider            static
        credentials expire  2026-11-27T19:12:00Z
        start-worker        0.1.0, pid 4700
        ");
    }

    #[test]
    fn what_is_not_known_has_no_line() {
        let answer = serde_json::json!({
            "state": "preparing", "since": "2026-11-23T19:12:00Z", "reason": null, "workerPid": null,
            "workerPoolID": null, "workerGroup": null, "workerID": null, "rootURL": null,
            "providerType": "static", "credentialsExpire": null, "version": "0.1.0", "pid": 4700,
        });
        // A clock that was set back.
        insta::assert_snapshot!(in_words(&answer, "2026-11-23T19:11:00Z".parse().unwrap()), @"
        state         preparing, since 2026-11-23T19:12:00Z (0s)
        provider      static
        start-worker  0.1.0, pid 4700
        ");
    }
}
