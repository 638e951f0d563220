//! The terminal's size, and the part of a status that fits on it.

use std::io::{self, IsTerminal};

/// A terminal's size. A dimension that the terminal does not know, for example on a serial line, is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Screen {
    pub(super) columns: Option<usize>,
    rows: Option<usize>,
}

impl Screen {
    /// The terminal on stdout with its current size; `None`: stdout is not a terminal. `columns`, from the environment,
    /// takes precedence over the terminal's own width, as in `ls` and `systemctl`.
    pub(super) fn of_stdout(columns: Option<usize>) -> Option<Self> {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return None;
        }
        let size = rustix::termios::tcgetwinsize(&stdout).ok();
        let known = |count: u16| (count > 0).then_some(usize::from(count));
        Some(Self {
            columns: columns.or_else(|| size.and_then(|size| known(size.ws_col))),
            rows: size.and_then(|size| known(size.ws_row)),
        })
    }

    /// Truncates a text to the lines that fit without scrolling, and adds the number of omitted lines.
    pub(super) fn fit(self, text: &str) -> String {
        let height = |line: &str| {
            let columns = self.columns.unwrap_or(usize::MAX);
            line.chars().count().div_ceil(columns).max(1)
        };
        let total: usize = text.lines().map(height).sum();
        // The cursor needs the last row.
        let Some(rows) = self.rows.map(|rows| rows.saturating_sub(1)).filter(|rows| total > *rows) else {
            return text.to_owned();
        };
        let mut left = rows.saturating_sub(1);
        let mut shown = String::new();
        let mut lines = text.lines();
        let mut hidden = text.lines().count();
        while let Some(line) = lines.next().filter(|line| height(line) <= left) {
            left -= height(line);
            hidden -= 1;
            shown.push_str(line);
            shown.push('\n');
        }
        shown + &format!("… {hidden} more lines: start-worker status\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(columns: usize, rows: usize) -> Screen {
        Screen { columns: Some(columns), rows: Some(rows) }
    }

    #[test]
    fn what_fits_is_shown_whole() {
        assert_eq!(screen(10, 4).fit("one\ntwo\nthree\n"), "one\ntwo\nthree\n");
        let unknown = Screen { columns: None, rows: None };
        assert_eq!(unknown.fit("one\ntwo\n"), "one\ntwo\n");
    }

    #[test]
    fn what_does_not_fit_is_counted_and_the_top_stays() {
        let more = |count| format!("… {count} more lines: start-worker status\n");
        assert_eq!(screen(10, 3).fit("one\ntwo\nthree\n"), format!("one\n{}", more(2)));
        // A line that takes two rows.
        assert_eq!(screen(10, 4).fit("0123456789a\ntwo\nthree\n"), format!("0123456789a\n{}", more(2)));
        assert_eq!(screen(10, 1).fit("one\ntwo\n"), more(2));
    }
}
