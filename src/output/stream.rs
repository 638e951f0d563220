//! Lines for a journal that reads them from a pipe, prepared so that only a line break ends a record.
//!
//! journald also ends a record at a NUL and at 48 KiB (`LineMax=`), and parses a priority at the beginning of the next
//! one. Without this, a worker could write records of any priority and without a tag, which would look like the
//! runner's own.

use std::borrow::Cow;

use super::identity::cut;
use super::render::{CONTINUED, CONTINUES, Stream};

/// Maximum length of a line for the journal, in bytes: below the lowest plausible setting of journald.
const LONGEST_LINE: usize = 32 * 1024;

/// Prepares a block of whole lines for the journal. Most blocks need no change.
pub(super) fn guarded(block: &[u8]) -> Cow<'_, [u8]> {
    let block = without_nul(block);
    if has_long_line(&block) { Cow::Owned(cut_lines(&block)) } else { block }
}

fn without_nul(block: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(0, block).is_none() {
        return Cow::Borrowed(block);
    }
    let mut text = Vec::with_capacity(block.len());
    for (index, part) in block.split(|byte| *byte == 0).enumerate() {
        text.extend_from_slice(if index == 0 { b"" } else { "\u{fffd}".as_bytes() });
        text.extend_from_slice(part);
    }
    Cow::Owned(text)
}

/// Only checks the last line break within each maximum line length.
fn has_long_line(block: &[u8]) -> bool {
    let mut rest = block;
    while let Some(window) = rest.get(..=LONGEST_LINE) {
        let Some(end) = memchr::memrchr(b'\n', window) else { return true };
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    false
}

fn cut_lines(block: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(block.len() + block.len() / 64);
    for line in block.split_inclusive(|byte| *byte == b'\n') {
        if line.len() <= LONGEST_LINE {
            lines.extend_from_slice(line);
        } else {
            cut_line(line, &mut lines);
        }
    }
    lines
}

/// Splits a line. Each piece begins with the line's priority and tag, and has the usual markers of a split line.
fn cut_line(line: &[u8], lines: &mut Vec<u8>) {
    let (begin, mut rest) = line.split_at(beginning(line));
    let room = LONGEST_LINE - begin.len() - CONTINUED.len() - CONTINUES.len() - 1;
    let mut continued: &[u8] = b"";
    loop {
        lines.extend_from_slice(begin);
        lines.extend_from_slice(continued);
        // The trailing line break is not a piece of its own.
        if rest.len() <= room + 1 {
            return lines.extend_from_slice(rest);
        }
        let (piece, more) = cut(rest, room);
        lines.extend_from_slice(piece);
        lines.extend_from_slice(CONTINUES);
        lines.push(b'\n');
        (rest, continued) = (more, CONTINUED);
    }
}

/// The length of the priority and the tag, in bytes. The runner's own lines have no tag.
fn beginning(line: &[u8]) -> usize {
    let priority = match line {
        [b'<', b'0'..=b'7', b'>', ..] => 3,
        _ => 0,
    };
    let rest = line.get(priority..).unwrap_or_default();
    let tags = [Stream::Stdout, Stream::Stderr].map(|stream| format!("[{}] ", stream.tag()));
    priority + tags.iter().find(|tag| rest.starts_with(tag.as_bytes())).map_or(0, String::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(block: &[u8]) -> Vec<String> {
        let text = String::from_utf8(guarded(block).into_owned()).unwrap();
        text.strip_suffix('\n').unwrap().split('\n').map(str::to_owned).collect()
    }

    /// The records that journald makes of a block, with its default settings.
    fn records(block: &[u8]) -> Vec<Vec<u8>> {
        let lines = block.split(|byte| *byte == b'\n' || *byte == 0);
        lines.flat_map(|line| line.chunks(48 * 1024).map(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn a_nul_in_a_workers_line_begins_no_record() {
        assert_eq!(
            lines(b"<6>[worker] x\0<3>forged\0\n<6>[stderr] \0\n"),
            ["<6>[worker] x\u{fffd}<3>forged\u{fffd}", "<6>[stderr] \u{fffd}"]
        );
    }

    #[test]
    fn no_part_of_a_long_line_begins_a_record_with_a_priority_of_its_own() {
        for tag in ["[worker] ", "[stderr] "] {
            let begin = format!("<6>{tag}");
            let mut text = "x".repeat(100 * 1024);
            let at = 48 * 1024 - begin.len();
            text.replace_range(at..at + 9, "<0>forged");
            let block = format!("<6>[worker] before\n{begin}{text}\n<4>after\n");
            assert!(records(block.as_bytes()).iter().any(|record| record.starts_with(b"<0>forged")));
            let guarded = guarded(block.as_bytes());
            let records = records(&guarded);
            assert!(records.iter().all(|record| record.is_empty()
                || record.starts_with(b"<6>[worker] ")
                || record.starts_with(begin.as_bytes())
                || record == b"<4>after"));
            let pieces: Vec<&str> = std::str::from_utf8(&guarded).unwrap().lines().collect();
            let long = &pieces[1..pieces.len() - 1];
            assert_eq!(
                (pieces[0], long.len(), pieces[pieces.len() - 1]),
                ("<6>[worker] before", 4, "<4>after")
            );
            let whole: String = long
                .iter()
                .map(|piece| piece.strip_prefix(&begin).unwrap())
                .map(|piece| piece.strip_prefix("[line continued] ").unwrap_or(piece))
                .map(|piece| piece.strip_suffix(" [line continues]").unwrap_or(piece))
                .collect();
            assert_eq!(whole, text);
            assert!(
                long[0].ends_with(" [line continues]")
                    && long[3].starts_with(&format!("{begin}[line continued] "))
            );
        }
    }

    #[test]
    fn a_long_line_of_the_runner_keeps_its_priority_and_no_character_is_cut() {
        let text = "\u{e4}".repeat(LONGEST_LINE);
        let pieces = lines(format!("<3>{text}\n").as_bytes());
        assert!(pieces.len() == 3 && pieces.iter().all(|piece| piece.len() < LONGEST_LINE));
        assert!(
            pieces[1].starts_with("<3>[line continued] \u{e4}")
                && pieces[1].ends_with("\u{e4} [line continues]")
        );
    }

    #[test]
    fn lines_that_are_short_stay_as_they_are() {
        let longest = format!("<6>[worker] {}\n", "x".repeat(LONGEST_LINE - 13));
        let block = format!("{longest}<4>y\n{longest}{longest}\n");
        assert!(matches!(guarded(block.as_bytes()), Cow::Borrowed(_)));
        assert!(matches!(guarded(b""), Cow::Borrowed(_)));
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_too_long_whatever_the_block(lengths in proptest::collection::vec(0..70_000_usize, 0..6)) {
            let lines: Vec<String> =
                lengths.iter().map(|length| format!("<6>[worker] {}\n", "\u{20ac}".repeat(*length))).collect();
            let block = lines.concat();
            let guarded = guarded(block.as_bytes());
            proptest::prop_assert!(guarded.split(|byte| *byte == b'\n').all(|line| line.len() <= LONGEST_LINE));
        }
    }
}
