//! The last lines of a worker's output, for the runner's log when the worker is given up.

use std::collections::VecDeque;

/// Maximum length of a kept line, in bytes.
const LONGEST: usize = 1024;

/// The last lines, oldest first. They are taken from the end of each rendered block, so that a flood of lines costs
/// nothing.
#[derive(Debug)]
pub(super) struct LastLines {
    count: usize,
    lines: VecDeque<Vec<u8>>,
}

impl LastLines {
    pub(super) fn new(count: usize) -> Self {
        Self { count, lines: VecDeque::new() }
    }

    /// Records the last lines of a block that ends with a newline.
    pub(super) fn take(&mut self, block: &[u8]) {
        let mut rest = block.strip_suffix(b"\n").unwrap_or(block);
        if self.count == 0 || block.is_empty() {
            return;
        }
        let mut starts = Vec::with_capacity(self.count);
        while starts.len() < self.count {
            let start = memchr::memrchr(b'\n', rest).map_or(0, |newline| newline + 1);
            let (before, line) = rest.split_at(start);
            starts.push(line);
            if start == 0 {
                break;
            }
            rest = before.strip_suffix(b"\n").unwrap_or(before);
        }
        for line in starts.into_iter().rev() {
            self.push(line);
        }
    }

    fn push(&mut self, line: &[u8]) {
        let mut kept =
            if self.lines.len() >= self.count { self.lines.pop_front() } else { None }.unwrap_or_default();
        kept.clear();
        // The journal's priority is useless in its new place. No other line of the log begins with one.
        let line = line.strip_prefix(b"<6>").unwrap_or(line);
        kept.extend_from_slice(cut(line));
        self.lines.push_back(kept);
    }

    /// Takes the lines as text.
    pub(super) fn take_text(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
            .iter()
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect()
    }
}

/// Truncates a line to the kept length, without splitting a character.
fn cut(line: &[u8]) -> &[u8] {
    let Some(kept) = line.get(..LONGEST) else { return line };
    match std::str::from_utf8(kept) {
        Err(error) if error.error_len().is_none() => kept.get(..error.valid_up_to()).unwrap_or(kept),
        _ => kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_many_blocks_are_kept_in_order() {
        let mut last = LastLines::new(3);
        for block in [&b"a\nb\n"[..], b"", b"c\n", b"d\ne\nf\ng\n", b"h\n"] {
            last.take(block);
        }
        assert_eq!(last.take_text(), ["f", "g", "h"]);
    }

    #[test]
    fn an_empty_line_is_a_line_and_a_long_one_is_cut() {
        let mut last = LastLines::new(2);
        last.take(b"x\n\n");
        last.take(&[vec![b'y'; 5000], vec![b'\n']].concat());
        let text = last.take_text();
        assert_eq!((text[0].as_str(), text[1].len()), ("", LONGEST));
    }

    #[test]
    fn a_cut_does_not_leave_half_a_character() {
        let mut last = LastLines::new(1);
        last.take(&["x", &"ä".repeat(LONGEST), "\n"].concat().into_bytes());
        assert_eq!(last.take_text(), ["x".to_owned() + &"ä".repeat((LONGEST - 1) / 2)]);
    }
}
