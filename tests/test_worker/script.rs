//! The test worker's language: from arguments to statements. `test_worker.rs` describes it.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::descendant::Descendant;

#[derive(Debug, Clone)]
pub(crate) enum Statement {
    /// Bytes for stdout: any message or output.
    Out(Vec<u8>),
    /// Bytes for stderr.
    Err(Vec<u8>),
    Lines {
        count: usize,
        size: usize,
    },
    /// One chunk of output, repeated until this many lines of this size are written.
    Fast {
        line: Vec<u8>,
        count: usize,
    },
    Blob(usize),
    /// Lines of this size at this rate.
    Pour {
        a_second: usize,
        size: usize,
        time: Duration,
    },
    /// Lines of this kind for this long.
    Flood {
        kind: String,
        time: Duration,
    },
    CloseStdin,
    CloseStdout,
    Sleep(Duration),
    Await(String),
    WaitFile(PathBuf),
    Wait,
    Spawn(Descendant),
    /// A command and its arguments.
    Run(Vec<String>),
    Exit(i32),
    Die(Signal),
    Note(String),
    FirstOnly,
    On(Trigger, Vec<Statement>),
}

/// The trigger of a reaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trigger {
    Signal(Signal),
    Message(String),
    /// graceful-termination with finish-tasks true.
    Finish,
    /// graceful-termination with finish-tasks false.
    Now,
    Eof,
}

/// All capabilities that a runner may offer.
const ALL_CAPABILITIES: &str =
    "autologin error-report graceful-termination log new-credentials reboot shutdown";

/// Parses the arguments for the `start`-th start.
pub(crate) fn parse(args: &[String], start: usize) -> Result<Vec<Statement>, String> {
    let mut statements = Vec::new();
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "run" | "--with-worker-runner" => {}
            "--config" => {
                args.next();
            }
            _ => statements.extend(parse_for_start(arg, start)?),
        }
    }
    Ok(statements)
}

/// Parses one argument; empty if it is for another start.
fn parse_for_start(text: &str, start: usize) -> Result<Vec<Statement>, String> {
    let Some(rest) = text.strip_prefix("start ") else { return Ok(vec![statement(text)?]) };
    let (which, body) = rest.split_once(':').ok_or_else(|| format!("no colon in `{text}`"))?;
    let this_one = match which.strip_suffix('+') {
        Some(first) => start >= number::<usize>(first)?,
        None => start == number::<usize>(which)?,
    };
    if this_one { sequence(body) } else { Ok(Vec::new()) }
}

/// Statements separated by ` ; `. A reaction includes the rest, because it contains a sequence itself.
fn sequence(text: &str) -> Result<Vec<Statement>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.starts_with("on ") {
        return Ok(vec![statement(text)?]);
    }
    text.split(" ; ").map(statement).collect()
}

fn statement(text: &str) -> Result<Statement, String> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let line = |text: &str| format!("{text}\n").into_bytes();
    let message = |value: serde_json::Value| Statement::Out(format!("~{value}\n").into_bytes());
    Ok(match word {
        "hello" => {
            let names = if rest == "all" { ALL_CAPABILITIES } else { rest };
            let names: Vec<&str> = names.split_whitespace().collect();
            message(serde_json::json!({"type": "hello", "capabilities": names}))
        }
        "send" => Statement::Out(line(&format!("~{rest}"))),
        "print" => Statement::Out(line(rest)),
        "err" => Statement::Err(line(rest)),
        "raw" => Statement::Out(unescape(rest)?),
        "err-raw" => Statement::Err(unescape(rest)?),
        "log" => message(serde_json::json!({"type": "log", "body": {"textPayload": rest}})),
        "metrics" => {
            let metrics = serde_json::json!({
                "eventType": rest, "worker": "generic-worker", "workerPoolId": "pp/ww", "taskId": "task",
            });
            message(
                serde_json::json!({"type": "log", "body": {"textPayload": format!("WORKER_METRICS {metrics}")}}),
            )
        }
        "lines" | "fast-lines" | "logs" | "blob" => bulk(word, rest)?,
        "pour" => pour(rest)?,
        "flood" => flood(rest)?,
        "close-stdin" => Statement::CloseStdin,
        "close-stdout" => Statement::CloseStdout,
        "sleep" => Statement::Sleep(humantime::parse_duration(rest).map_err(|e| format!("`{text}`: {e}"))?),
        "await" => Statement::Await(rest.to_owned()),
        "wait-file" => Statement::WaitFile(rest.into()),
        "wait" => Statement::Wait,
        "spawn" => Statement::Spawn(Descendant::parse(rest)?),
        "run" => Statement::Run(rest.split_whitespace().map(str::to_owned).collect()),
        "exit" => Statement::Exit(number(rest)?),
        "die" => Statement::Die(signal(rest)?),
        "note" => Statement::Note(rest.to_owned()),
        "first-only" => Statement::FirstOnly,
        "on" => {
            let (trigger, body) = rest.split_once(':').ok_or_else(|| format!("no colon in `{text}`"))?;
            Statement::On(self::trigger(trigger)?, sequence(body)?)
        }
        _ => return Err(format!("no such statement: `{text}`")),
    })
}

/// `COUNT SIZE DURATION`.
fn pour(text: &str) -> Result<Statement, String> {
    let [count, size, time] = text.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("not `COUNT SIZE DURATION`: `{text}`"));
    };
    let time = humantime::parse_duration(time).map_err(|cause| format!("`{time}`: {cause}"))?;
    Ok(Statement::Pour { a_second: number(count)?, size: number(size)?, time })
}

/// `KIND DURATION`.
fn flood(text: &str) -> Result<Statement, String> {
    let (kind, time) = text.split_once(' ').ok_or_else(|| format!("not `KIND DURATION`: `{text}`"))?;
    let time = humantime::parse_duration(time).map_err(|cause| format!("`{time}`: {cause}"))?;
    test_support::flood::block(kind).ok_or_else(|| format!("no such flood: `{kind}`"))?;
    Ok(Statement::Flood { kind: kind.to_owned(), time })
}

/// The statements that write large amounts.
fn bulk(word: &str, rest: &str) -> Result<Statement, String> {
    let (first, second) = rest.split_once(' ').unwrap_or((rest, "0"));
    let (count, size) = (number(first)?, number(second)?);
    Ok(match word {
        "lines" => Statement::Lines { count, size },
        "fast-lines" => {
            let mut line = vec![b'x'; size];
            *line.last_mut().ok_or("a line has at least its newline")? = b'\n';
            Statement::Fast { line, count }
        }
        "logs" => {
            let head = r#"~{"type":"log","body":{"level":"info","textPayload":""#;
            let tail = "\"}}\n";
            let text = "x".repeat(122 - head.len() - tail.len());
            Statement::Fast { line: format!("{head}{text}{tail}").into_bytes(), count }
        }
        _ => Statement::Blob(count),
    })
}

fn trigger(text: &str) -> Result<Trigger, String> {
    Ok(match text.trim() {
        "finish" => Trigger::Finish,
        "now" => Trigger::Now,
        "eof" => Trigger::Eof,
        name if name.starts_with("SIG") => Trigger::Signal(signal(name)?),
        message => Trigger::Message(message.to_owned()),
    })
}

fn signal(name: &str) -> Result<Signal, String> {
    Signal::from_str(name).map_err(|_| format!("no such signal: `{name}`"))
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("not a number: `{text}`"))
}

/// Bytes with `\n`, `\r`, `\t`, `\\` and `\xHH` escapes.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).map_err(|_| format!("not two hex digits: `{digits}`"))?
            }
            other => return Err(format!("no such escape: {:?}", other.map(char::from))),
        });
    }
    Ok(bytes)
}
