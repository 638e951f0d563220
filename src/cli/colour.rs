//! Colours on a terminal, only for words that state a condition.
//!
//! A complete text is coloured by the beginnings of its lines, so that widths are computed without colours.

use std::io::IsTerminal;

use super::environment::Environment;

// ECMA-48: SGR.
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// The results of `check --online`.
const RESULTS: [(&str, &str); 3] = [("# ok ", GREEN), ("# doubtful ", YELLOW), ("# fails ", RED)];

/// The labels of diagnostics.
const LABELS: [(&str, &str); 2] = [("error:", RED), ("warning:", YELLOW)];

/// Returns true if texts for this stream are coloured: the stream is a terminal, and the environment allows it
/// (`NO_COLOR`, see <https://no-color.org>; `TERM=dumb`).
pub(crate) fn is_wanted(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && Environment::read().colours
}

fn painted(text: &str, colour: &str) -> String {
    format!("{colour}{text}{PLAIN}")
}

/// Colours each line with `paint`, which returns `None` to leave a line unchanged.
fn by_line(text: &str, mut paint: impl FnMut(&str) -> Option<String>) -> String {
    let colour = |line: &str| match line.strip_suffix('\n') {
        Some(line) => paint(line).unwrap_or_else(|| line.to_owned()) + "\n",
        None => paint(line).unwrap_or_else(|| line.to_owned()),
    };
    text.split_inclusive('\n').map(colour).collect()
}

/// Colours diagnostics and the errors of commands.
pub(crate) fn diagnostics(text: &str) -> String {
    by_line(text, |line| at_the_beginning(line, &LABELS))
}

/// Colours the report of `check`.
pub(crate) fn report(text: &str) -> String {
    by_line(text, |line| at_the_beginning(line, &RESULTS))
}

fn at_the_beginning(line: &str, marks: &[(&str, &str)]) -> Option<String> {
    let (mark, colour) = marks.iter().find(|(mark, _)| line.starts_with(mark))?;
    let (begins, rest) = line.split_at(mark.len());
    Some(painted(begins, colour) + rest)
}

/// Colours the status.
pub(crate) fn status(text: &str) -> String {
    let mut goes_on = None;
    by_line(text, |line| {
        if line.starts_with(' ') {
            return goes_on.map(|colour| painted(line, colour));
        }
        goes_on = None;
        let value = line.find("  ").map(|at| line.len() - line.split_at(at).1.trim_start().len());
        match (line.split(' ').next().unwrap_or_default(), value) {
            ("state", Some(at)) => {
                let (name, value) = line.split_at(at);
                let (phase, rest) = value.split_once(',')?;
                Some(format!("{name}{},{rest}", painted(phase, of_phase(phase)?)))
            }
            ("unhealthy", Some(at)) => {
                let (name, value) = line.split_at(at);
                goes_on = Some(RED);
                Some(format!("{name}{}", painted(value, RED)))
            }
            ("last", _) => {
                let (before, code) = line.rsplit_once("exit code ")?;
                (code != "0").then(|| format!("{before}{}", painted(&format!("exit code {code}"), RED)))
            }
            _ => {
                let (at, said) = line.split_once(' ')?;
                at.parse::<jiff::Timestamp>().ok()?;
                Some(format!("{at} {}", at_the_beginning(said, &LABELS)?))
            }
        }
    })
}

fn of_phase(phase: &str) -> Option<&'static str> {
    match phase {
        "running" => Some(GREEN),
        "draining" | "stopping" | "killing" | "holding" | "backing off" | "awaiting reboot" => Some(YELLOW),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replaces colours by letters.
    fn letters(text: &str) -> String {
        text.replace(RED, "<r>").replace(GREEN, "<g>").replace(YELLOW, "<y>").replace(PLAIN, "<>")
    }

    #[test]
    fn the_words_that_say_how_things_are_have_colours() {
        let text = "\
state         running, since 2026-11-23T19:12:00Z
unhealthy     a cause that
              is long
worker        generic-worker, pid 7
  exit        exit code 1
2026-11-23T19:12:00Z error: oh dear
  state running
2026-11-23T19:12:00Z warning: oh
last run      ended with exit code 1
last run      ended with exit code 0";
        insta::assert_snapshot!(letters(&status(text)), @"
        state         <g>running<>, since 2026-11-23T19:12:00Z
        unhealthy     <r>a cause that<>
        <r>              is long<>
        worker        generic-worker, pid 7
          exit        exit code 1
        2026-11-23T19:12:00Z <r>error:<> oh dear
          state running
        2026-11-23T19:12:00Z <y>warning:<> oh
        last run      ended with <r>exit code 1<>
        last run      ended with exit code 0
        ");
        let said = diagnostics("error: a\nwarning: b\nnothing\n");
        assert_eq!(letters(&said), "<r>error:<> a\n<y>warning:<> b\nnothing\n");
        let found = report("# ok          ping\n# fails       name\nfiles: []\n");
        assert_eq!(letters(&found), "<g># ok <>         ping\n<r># fails <>      name\nfiles: []\n");
    }
}
