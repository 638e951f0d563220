//! Parses and executes commands.

use std::time::Instant;

use super::answers::Sessions;
use super::{Fault, Placed, Shared, Value};

pub(super) fn obey(shared: &Shared, command: &str) -> Result<String, String> {
    let (word, rest) = split(command);
    match word {
        "set" => {
            let (path, text) = split(rest);
            change(shared, path, Some(text));
        }
        "unset" => change(shared, rest, None),
        "fault" => shared.state().faults.push(placed(rest)?),
        "clear" => {
            shared.state().faults.clear();
            shared.cleared.send_modify(|times| *times += 1);
        }
        "events" => {
            let events = serde_json::from_str(rest).map_err(|cause| format!("events: {cause}"))?;
            let mut state = shared.state();
            state.events = events;
            state.incarnation += 1;
        }
        "sessions" => {
            let (required, supported) = match rest {
                "required" => (true, true),
                "optional" => (false, true),
                "unsupported" => (false, false),
                other => return Err(format!("sessions: required, optional or unsupported, not {other:?}")),
            };
            shared.state().sessions = Sessions { required, supported, ..Sessions::default() };
        }
        "expire-sessions" => {
            let now = Instant::now();
            shared.state().sessions.tokens.iter_mut().for_each(|(_, ends)| *ends = now);
        }
        "busy" => return Ok(shared.state().busy.to_string()),
        "requests" => {
            let line = |request: &super::Request| format!("{} {}", request.method, request.target);
            return Ok(shared.state().requests.iter().map(line).collect::<Vec<_>>().join("\n"));
        }
        other => return Err(format!("no command {other:?}")),
    }
    Ok(String::new())
}

fn change(shared: &Shared, path: &str, text: Option<&str>) {
    shared.changes.send_modify(|version| {
        *version += 1;
        let mut state = shared.state();
        match text {
            Some(text) => {
                state.values.insert(path.to_owned(), Value { text: text.to_owned(), version: *version })
            }
            None => state.values.remove(path),
        };
    });
}

fn placed(text: &str) -> Result<Placed, String> {
    let (once, text) = match text.strip_prefix("once ") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (prefix, fault) = split(text);
    let prefix = if prefix == "*" { "" } else { prefix }.to_owned();
    let fault = match split(fault) {
        ("hang", "") => Fault::Hang,
        ("close", "") => Fault::Close,
        ("garbage", "") => Fault::Garbage,
        ("delay", time) => {
            Fault::Delay(humantime::parse_duration(time).map_err(|cause| format!("{time:?}: {cause}"))?)
        }
        (status, "") => Fault::Status(status.parse().map_err(|cause| format!("{status:?}: {cause}"))?),
        _ => return Err(format!("no fault {fault:?}")),
    };
    Ok(Placed { prefix, once, fault })
}

/// The first word and what follows it.
fn split(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}
