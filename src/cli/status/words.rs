//! Formats a status answer for people, one value a line.

use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::cli::socket::printable;
use start_worker::telemetry::status_board::killed_for_memory;

/// Minimum width of the column of values. On a narrower terminal, the terminal wraps the lines.
const NARROWEST: usize = 20;

/// The indentation of the continuation lines of a warning or error.
const INDENTATION: usize = 2;

/// The number of the worker's last exits to show.
const EXITS: usize = 3;

/// The number of the log's last warnings and errors to show, newest first.
const TROUBLES: usize = 3;

/// Formats all known values, one a line. `columns`: the terminal's width, at which long values are wrapped between
/// words; `None`: there is no terminal, and a value is one line however long it is. Nothing is truncated.
pub(super) fn in_words(answer: &Value, now: Timestamp, columns: Option<usize>) -> String {
    let words = Words { answer, now };
    let mut lines = words.state();
    lines.extend(words.runs());
    lines.extend(words.identity());
    lines.push(("tasks", words.tasks()));
    lines.extend(words.credentials());
    lines.extend(words.watches());
    lines.extend(words.log());
    lines.push(("start-worker", words.runner()));
    let mut shown = laid_out(&lines, columns);
    shown.push_str(&words.troubles(columns));
    shown
}

/// The record of the newest run, in the same form, for when no start-worker is there to be asked.
pub(super) fn last_run(record: &Value, now: Timestamp, columns: Option<usize>) -> String {
    let words = Words { answer: record, now };
    let [started, ended] = ["/started", "/ended"].map(|key| words.text(key));
    let state = if ended.is_empty() {
        format!(
            "began {} and left no record of its end: it was killed, its host went down, or it runs and listens elsewhere",
            words.past(started)
        )
    } else {
        let code = number(record, "/exitCode");
        format!("ended {} with exit code {code}", words.past(ended))
    };
    let lines = [
        ("last run", state),
        ("  outcome", words.text("/outcome").replace('\n', "; ")),
        ("  began", if ended.is_empty() { String::new() } else { words.past(started) }),
        ("  runner config", words.text("/runnerConfig").to_owned()),
        ("  start-worker", format!("{}, pid {}", words.text("/version"), number(record, "/pid"))),
    ];
    let mut shown = laid_out(&lines, columns);
    shown.push_str(&words.troubles(columns));
    shown
}

/// Names and values below each other, without those that are not known.
fn laid_out(lines: &[Line], columns: Option<usize>) -> String {
    let known = || lines.iter().filter(|(_, value)| !value.is_empty());
    let width = known().map(|(name, _)| name.len() + 2).max().unwrap_or_default();
    let mut shown = String::new();
    for (name, value) in known() {
        let lines = wrapped(&printable(value), columns, width);
        // Writing to a String cannot fail.
        let _ = writeln!(shown, "{name:<width$}{}", lines.join(&format!("\n{:width$}", "")));
    }
    shown
}

/// Wraps a value at spaces into lines that leave `indentation` columns free. A longer word, such as a URL, is not
/// split.
fn wrapped(text: &str, columns: Option<usize>, indentation: usize) -> Vec<String> {
    let room = columns.and_then(|columns| columns.checked_sub(indentation)).filter(|room| *room >= NARROWEST);
    let Some(room) = room else { return vec![text.to_owned()] };
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let width = word.chars().count();
        if used > 0 && used + 1 + width > room {
            lines.push(std::mem::take(&mut line));
            used = 0;
        } else if used > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += width;
    }
    lines.push(line);
    lines
}

type Line = (&'static str, String);

struct Words<'a> {
    answer: &'a Value,
    now: Timestamp,
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

impl Words<'_> {
    fn text(&self, pointer: &str) -> &str {
        text(self.answer, pointer)
    }

    fn list(&self, pointer: &str) -> &[Value] {
        self.answer.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// The last warnings and errors of the log, the newest first.
    fn troubles(&self, columns: Option<usize>) -> String {
        let mut shown = String::new();
        for trouble in self.list("/troubles").iter().rev().take(TROUBLES) {
            let [at, level, said] = ["/at", "/level", "/text"].map(|key| text(trouble, key));
            let lines = wrapped(&printable(&format!("{at} {level}: {said}")), columns, INDENTATION);
            // Writing to a String cannot fail.
            let _ = writeln!(shown, "{}", lines.join(&format!("\n{:INDENTATION$}", "")));
        }
        shown
    }

    fn state(&self) -> Vec<Line> {
        let state = format!("{}, since {}", self.text("/state"), self.past(self.text("/since")));
        vec![
            ("state", state),
            ("reason", self.text("/reason").to_owned()),
            ("unhealthy", self.text("/unhealthy").to_owned()),
            ("hold", self.hold()),
        ]
    }

    /// `1 running, since …; 12 finished, 1 lost; the last finished …`. Empty where the worker does not tell.
    fn tasks(&self) -> String {
        if self.answer.pointer("/tasks").is_none_or(Value::is_null) {
            return String::new();
        }
        let [running, finished, lost] =
            ["running", "finished", "lost"].map(|key| number(self.answer, &format!("/tasks/{key}")));
        let mut tasks = match running {
            0 => "none running".to_owned(),
            _ => format!("{running} running, since {}", self.past(self.text("/tasks/since"))),
        };
        let _ = write!(tasks, "; {finished} finished");
        if lost > 0 {
            let _ = write!(tasks, ", {lost} lost");
        }
        if let last @ ("finished" | "lost") = self.text("/tasks/last/result") {
            let was = if last == "lost" { "was lost" } else { last };
            let _ = write!(tasks, "; the last {was} {}", self.past(self.text("/tasks/last/at")));
        }
        tasks
    }

    /// The hold of the host, with its end.
    fn hold(&self) -> String {
        if self.answer.pointer("/hold").is_none_or(Value::is_null) {
            return String::new();
        }
        let [since, by, reason] = ["/hold/since", "/hold/by", "/hold/reason"].map(|key| self.text(key));
        let mut hold = "no other worker is started until `start-worker resume`; held".to_owned();
        for (before, value) in
            [(" since ", self.past(since)), (" by ", by.to_owned()), (": ", reason.to_owned())]
        {
            if !value.is_empty() {
                let _ = write!(hold, "{before}{value}");
            }
        }
        hold
    }

    fn runs(&self) -> Vec<Line> {
        let implementation = self.text("/implementation");
        let pid = number(self.answer, "/workerPid");
        let process = if pid == 0 { "not running".to_owned() } else { format!("pid {pid}") };
        let mut worker = format!("{implementation}, {process}");
        let [restarts, crashes, allowed] =
            ["restarts", "crashes", "maxRestarts"].map(|key| number(self.answer, &format!("/runs/{key}")));
        if restarts > 0 {
            let _ = write!(worker, ", restarts: {restarts}");
        }
        if crashes > 0 {
            let _ = write!(worker, ", crashes: {crashes} of {allowed}");
        }
        let stopped = match self.text("/workerStopped/signal") {
            "" => String::new(),
            signal => format!("by {signal}, since {}", self.past(self.text("/workerStopped/since"))),
        };
        let mut lines = vec![("worker", worker), ("  stopped", stopped)];
        for exit in self.list("/runs/exits").iter().rev().take(EXITS) {
            let [at, status, meaning] = ["/at", "/status", "/meaning"].map(|key| text(exit, key));
            let ran = span(number(exit, "/ranSeconds"));
            let mut how = format!("{at} after {ran}: {status}: {meaning}");
            let kills = number(exit, "/oomKills");
            if kills > 0 {
                let _ = write!(how, "; {}", killed_for_memory(kills));
            }
            if exit.pointer("/dumped").and_then(Value::as_bool) == Some(true) {
                how.push_str("; core dumped, see coredumpctl");
            }
            lines.push(("  exit", how));
        }
        lines
    }

    fn identity(&self) -> Vec<Line> {
        vec![
            ("worker pool", self.text("/workerPoolID").to_owned()),
            ("worker group", self.text("/workerGroup").to_owned()),
            ("worker id", self.text("/workerID").to_owned()),
            ("root URL", self.text("/rootURL").to_owned()),
            ("provider", self.text("/providerType").to_owned()),
        ]
    }

    fn credentials(&self) -> Vec<Line> {
        vec![
            ("credentials expire", self.time(self.text("/credentialsExpire"))),
            ("credentials renew", self.time(self.text("/credentialsRenew"))),
        ]
    }

    fn watches(&self) -> Vec<Line> {
        let sources = self.list("/deployment/sources").iter().map(|source| {
            let value = text(source, "/value");
            let name = text(source, "/source");
            if value.is_empty() { name.to_owned() } else { format!("{name} {value}") }
        });
        let mut lines = vec![("deployment", sources.collect::<Vec<_>>().join(", "))];
        let checked = self.time(self.text("/deployment/lastCheck"));
        if !checked.is_empty() {
            lines.push(("  checked", format!("{checked}: {}", self.text("/deployment/result"))));
        }
        let cloud = self.text("/interruption/cloud");
        if !cloud.is_empty() {
            let answered = match self.time(self.text("/interruption/lastAnswer")) {
                never if never.is_empty() => "has not answered yet".to_owned(),
                time => format!("answered {time}"),
            };
            let (failure, notice) = (self.text("/interruption/failure"), self.text("/interruption/notice"));
            let says = match (failure, notice) {
                ("", "") => "no notice".to_owned(),
                ("", notice) => notice.to_owned(),
                (failure, _) => format!("fails now: {failure}"),
            };
            lines.push(("interruptions", format!("{cloud} {answered}: {says}")));
        }
        lines
    }

    fn log(&self) -> Vec<Line> {
        let count = |key: &str| number(self.answer, &format!("/log/{key}"));
        let mut output = format!("lines: {}, bytes: {}", count("workerLines"), count("workerBytes"));
        let written = self.text("/log/lastOutput");
        if !written.is_empty() {
            let _ = write!(output, ", last written {}", self.past(written));
        }
        let mut log = format!("errors: {}, warnings: {}", count("errors"), count("warnings"));
        let (dropped, lost) = (count("droppedLines"), count("lostBytes"));
        if dropped + lost > 0 {
            let _ = write!(log, "; lost: {dropped} lines, {lost} bytes");
        }
        vec![("output", output), ("log", log)]
    }

    fn runner(&self) -> String {
        let since = self.past(self.text("/started"));
        format!("{}, pid {}, since {since}", self.text("/version"), number(self.answer, "/pid"))
    }

    /// Formats a time in the past, which the clock may show as future, with its distance from now.
    fn past(&self, time: &str) -> String {
        let Ok(at) = time.parse::<Timestamp>() else { return time.to_owned() };
        Words { answer: self.answer, now: self.now.max(at) }.time(time)
    }

    /// Formats a time with its distance from now.
    fn time(&self, time: &str) -> String {
        let Ok(at) = time.parse::<Timestamp>() else { return time.to_owned() };
        let away = at.as_second().saturating_sub(self.now.as_second());
        let distance = span(away.unsigned_abs());
        if away > 0 { format!("{time} (in {distance})") } else { format!("{time} ({distance} ago)") }
    }
}

/// Rounds to a useful precision: days and hours, or hours and minutes.
fn span(seconds: u64) -> String {
    let whole = match seconds {
        0..3_600 => seconds,
        3_600..86_400 => seconds - seconds % 60,
        _ => seconds - seconds % 3_600,
    };
    humantime::format_duration(Duration::from_secs(whole)).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T20:15:01Z".parse().unwrap()
    }

    /// An answer with all possible fields.
    fn full() -> Value {
        let exit = json!({
            "at": "2026-11-23T19:10:00Z", "status": "exit code 69", "meaning": "internal error of the worker",
            "class": "crash", "ranSeconds": 59,
        });
        let trouble = json!({
            "at": "2026-11-23T19:11:00Z", "level": "error",
            "text": format!("worker reports an error kind=x title={}", "long ".repeat(30).trim()),
        });
        json!({
            "state": "draining", "since": "2026-11-23T19:12:00Z", "reason": "operator",
            "unhealthy": "the worker's credentials have expired",
            "hold": {"since": "2026-11-23T19:12:00Z", "by": "root (sudo: alice)", "reason": "new disk"},
            "workerPid": 4711, "workerPoolID": "releng/linux", "workerGroup": "office", "workerID": "bench-01",
            "rootURL": "https://tc.example.com", "providerType": "aws", "implementation": "generic-worker",
            "runs": {
                "starts": 9, "restarts": 8, "crashes": 2, "maxRestarts": 5, "restartWindowSeconds": 600,
                "exits": [exit, exit, exit, exit, exit],
            },
            "credentialsExpire": "2026-11-27T19:12:00Z", "credentialsRenew": "2026-11-27T18:42:00Z",
            "deployment": {
                "sources": [
                    {"source": "deploymentId", "value": "2026-11-20"},
                    {"source": "launchConfigId", "value": "lc-1"},
                    {"source": "shouldWorkerTerminate", "value": null},
                ],
                "lastCheck": "2026-11-23T20:13:00Z", "result": "nothing new",
            },
            "interruption": {
                "cloud": "EC2", "lastAnswer": "2026-11-23T20:15:00Z", "failure": null, "notice": null,
            },
                "troubles": [trouble, trouble, trouble, trouble, trouble],
            "log": {
                "workerLines": 12345, "workerBytes": 6_789_012, "droppedLines": 3, "lostBytes": 4096,
                "warnings": 7, "errors": 5,
            },
            "version": "0.1.0", "pid": 4700, "started": "2026-11-20T07:00:00Z",
        })
    }

    #[test]
    fn without_a_terminal_nothing_is_cut_or_wrapped() {
        insta::assert_snapshot!(in_words(&full(), now(), None), @"
        state               draining, since 2026-11-23T19:12:00Z (1h 3m ago)
        reason              operator
        unhealthy           the worker's credentials have expired
        hold                no other worker is started until `start-worker resume`; held since 2026-11-23T19:12:00Z (1h 3m ago) by root (sudo: alice): new disk
        worker              generic-worker, pid 4711, restarts: 8, crashes: 2 of 5
          exit              2026-11-23T19:10:00Z after 59s: exit code 69: internal error of the worker
          exit              2026-11-23T19:10:00Z after 59s: exit code 69: internal error of the worker
          exit              2026-11-23T19:10:00Z after 59s: exit code 69: internal error of the worker
        worker pool         releng/linux
        worker group        office
        worker id           bench-01
        root URL            https://tc.example.com
        provider            aws
        credentials expire  2026-11-27T19:12:00Z (in 3days 22h)
        credentials renew   2026-11-27T18:42:00Z (in 3days 22h)
        deployment          deploymentId 2026-11-20, launchConfigId lc-1, shouldWorkerTerminate
          checked           2026-11-23T20:13:00Z (2m 1s ago): nothing new
        interruptions       EC2 answered 2026-11-23T20:15:00Z (1s ago): no notice
        output              lines: 12345, bytes: 6789012
        log                 errors: 5, warnings: 7; lost: 3 lines, 4096 bytes
        start-worker        0.1.0, pid 4700, since 2026-11-20T07:00:00Z (3days 13h ago)
        2026-11-23T19:11:00Z error: worker reports an error kind=x title=long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long
        2026-11-23T19:11:00Z error: worker reports an error kind=x title=long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long
        2026-11-23T19:11:00Z error: worker reports an error kind=x title=long long long long long long long long long long long long long long long long long long long long long long long long long long long long long long
        ");
    }

    #[test]
    fn on_a_terminal_long_values_are_wrapped_between_words_below_each_other() {
        let words = in_words(&full(), now(), Some(72));
        assert!(words.lines().all(|line| line.chars().count() <= 72), "{words}");
        insta::assert_snapshot!(words, @"
        state               draining, since 2026-11-23T19:12:00Z (1h 3m ago)
        reason              operator
        unhealthy           the worker's credentials have expired
        hold                no other worker is started until `start-worker
                            resume`; held since 2026-11-23T19:12:00Z (1h 3m ago)
                            by root (sudo: alice): new disk
        worker              generic-worker, pid 4711, restarts: 8, crashes: 2 of
                            5
          exit              2026-11-23T19:10:00Z after 59s: exit code 69:
                            internal error of the worker
          exit              2026-11-23T19:10:00Z after 59s: exit code 69:
                            internal error of the worker
          exit              2026-11-23T19:10:00Z after 59s: exit code 69:
                            internal error of the worker
        worker pool         releng/linux
        worker group        office
        worker id           bench-01
        root URL            https://tc.example.com
        provider            aws
        credentials expire  2026-11-27T19:12:00Z (in 3days 22h)
        credentials renew   2026-11-27T18:42:00Z (in 3days 22h)
        deployment          deploymentId 2026-11-20, launchConfigId lc-1,
                            shouldWorkerTerminate
          checked           2026-11-23T20:13:00Z (2m 1s ago): nothing new
        interruptions       EC2 answered 2026-11-23T20:15:00Z (1s ago): no
                            notice
        output              lines: 12345, bytes: 6789012
        log                 errors: 5, warnings: 7; lost: 3 lines, 4096 bytes
        start-worker        0.1.0, pid 4700, since 2026-11-20T07:00:00Z (3days
                            13h ago)
        2026-11-23T19:11:00Z error: worker reports an error kind=x title=long
          long long long long long long long long long long long long long long
          long long long long long long long long long long long long long long
          long
        2026-11-23T19:11:00Z error: worker reports an error kind=x title=long
          long long long long long long long long long long long long long long
          long long long long long long long long long long long long long long
          long
        2026-11-23T19:11:00Z error: worker reports an error kind=x title=long
          long long long long long long long long long long long long long long
          long long long long long long long long long long long long long long
          long
        ");
    }

    #[test]
    fn a_word_that_is_longer_than_the_terminal_is_wide_stays_whole() {
        let url = format!("https://{}.example.com", "x".repeat(60));
        let answer = json!({ "rootURL": url, "unhealthy": format!("cannot call {url}: connection refused") });
        let words = in_words(&answer, now(), Some(40));
        assert_eq!(words.matches(&url).count(), 2, "{words}");
        assert!(
            words.contains(&format!("cannot call\n              {url}:\n              connection refused\n")),
            "{words}"
        );
    }

    #[test]
    fn a_terminal_too_narrow_for_two_columns_is_left_to_wrap_by_itself() {
        assert_eq!(in_words(&full(), now(), Some(20)).lines().count(), 24);
    }

    #[test]
    fn control_characters_in_an_error_are_escaped() {
        let words = in_words(&json!({ "unhealthy": "a\u{1b}[2Jb\nstate running" }), now(), None);
        assert!(words.contains("unhealthy     a\\u{1b}[2Jb\\nstate running\n"), "{words}");
    }

    #[test]
    fn what_is_not_known_has_no_line() {
        let answer = json!({
            "state": "preparing", "since": "2026-11-23T19:12:00Z", "reason": null, "workerPid": null,
            "workerPoolID": null, "workerGroup": null, "workerID": null, "rootURL": null, "providerType": "static",
            "implementation": "docker-worker", "credentialsExpire": null, "version": "0.1.0", "pid": 4700,
            "started": "2026-11-23T19:12:00Z",
        });
        // The clock was set back.
        insta::assert_snapshot!(in_words(&answer, "2026-11-23T19:11:00Z".parse().unwrap(), None), @"
        state         preparing, since 2026-11-23T19:12:00Z (0s ago)
        worker        docker-worker, not running
        provider      static
        output        lines: 0, bytes: 0
        log           errors: 0, warnings: 0
        start-worker  0.1.0, pid 4700, since 2026-11-23T19:12:00Z (0s ago)
        ");
    }
}
