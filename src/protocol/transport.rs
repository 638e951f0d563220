//! Splits a worker's output into lines, with bounded memory and in a single pass.

/// A longer line of output is forwarded in pieces of at most this many bytes.
pub const LONGEST_PIECE: usize = 1024 * 1024;

/// Maximum size of a line that may be a message, in bytes. A longer one is refused.
pub const LONGEST_MESSAGE: usize = 4 * 1024 * 1024;

/// The capacity of the buffer that is kept after a giant line, in bytes.
const SMALL: usize = 8 * 1024;

/// A piece of the worker's output, without newlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A whole line.
    Line(&'a str),
    /// A whole line that is not UTF-8.
    Bytes(&'a [u8]),
    /// A part of a line that is longer than [`LONGEST_PIECE`]. No UTF-8 character is split.
    Part {
        bytes: &'a [u8],
        /// True if the line begins here.
        first: bool,
        /// True if the line ends here.
        last: bool,
    },
    /// A line that began like a message and exceeded [`LONGEST_MESSAGE`].
    Refused {
        /// The line's length in bytes, without the newline.
        size: u64,
    },
}

/// Splits a stream of bytes into lines.
#[derive(Debug)]
pub struct Splitter {
    /// The beginning of an incomplete line; in a long line, the part that has not been forwarded.
    pending: Vec<u8>,
    mode: Mode,
    /// The classification of a line before its first byte is seen.
    fresh: Beginning,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// `pending` contains the line from its beginning.
    Line(Beginning),
    /// Parts of the line have been forwarded.
    Long,
    /// The line was refused; the value is the number of its bytes so far.
    Refused(u64),
}

/// The classification of a line by its beginning. It is stored, so that no byte is examined twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// Only white space so far.
    Blank,
    /// A `~`.
    Tilde,
    /// `~{`.
    Message,
    Output,
}

impl Beginning {
    fn and_then(mut self, bytes: &[u8]) -> Self {
        for byte in bytes {
            self = match (self, byte) {
                (Self::Blank, byte) if byte.is_ascii_whitespace() => Self::Blank,
                (Self::Blank, b'~') => Self::Tilde,
                (Self::Tilde, b'{') => Self::Message,
                (Self::Message, _) => return self,
                _ => return Self::Output,
            };
        }
        self
    }
}

impl Splitter {
    /// Creates a splitter for a stream that contains protocol messages.
    pub fn with_messages() -> Self {
        Self::new(Beginning::Blank)
    }

    /// Creates a splitter for a stream of output only: lines that look like messages are ordinary lines.
    pub fn without_messages() -> Self {
        Self::new(Beginning::Output)
    }

    fn new(fresh: Beginning) -> Self {
        Self { pending: Vec::new(), mode: Mode::Line(fresh), fresh }
    }

    /// Processes the next bytes.
    pub fn feed(&mut self, bytes: &[u8], forward: &mut impl FnMut(Piece<'_>)) {
        let Some(last) = memchr::memrchr(b'\n', bytes) else { return self.hold(bytes, forward) };
        let (mut lines, rest) = bytes.split_at(last + 1);
        if !self.is_fresh()
            && let Some(end) = memchr::memchr(b'\n', lines)
        {
            self.line_ends(lines.get(..end).unwrap_or_default(), forward);
            lines = lines.get(end + 1..).unwrap_or_default();
        }
        // Validating all lines at once costs a fraction of validating each one.
        match std::str::from_utf8(lines) {
            Ok(lines) if lines.len() <= LONGEST_PIECE => whole_lines(lines, forward),
            _ => self.each_line(lines, forward),
        }
        self.hold(rest, forward);
    }

    /// Returns true if no byte of the current line has been seen yet.
    fn is_fresh(&self) -> bool {
        self.pending.is_empty() && self.mode == Mode::Line(self.fresh)
    }

    fn each_line(&mut self, lines: &[u8], forward: &mut impl FnMut(Piece<'_>)) {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', lines) {
            self.line_ends(lines.get(start..end).unwrap_or_default(), forward);
            start = end + 1;
        }
    }

    /// Ends the stream. A last line without a newline still counts.
    pub fn finish(&mut self, forward: &mut impl FnMut(Piece<'_>)) {
        if !self.is_fresh() {
            self.line_ends(&[], forward);
        }
    }

    /// Returns true inside a line of which parts have been forwarded.
    pub fn is_inside_long_line(&self) -> bool {
        self.mode == Mode::Long
    }

    /// Inside a long line, forwards its available part.
    pub fn flush_part(&mut self, forward: &mut impl FnMut(Piece<'_>)) {
        if self.mode == Mode::Long && !self.pending.is_empty() {
            self.forward_part(false, forward);
        }
    }

    fn line_ends(&mut self, tail: &[u8], forward: &mut impl FnMut(Piece<'_>)) {
        if self.is_fresh() && tail.len() <= LONGEST_PIECE {
            return forward(whole_line(tail));
        }
        self.hold(tail, forward);
        match std::mem::replace(&mut self.mode, Mode::Line(self.fresh)) {
            Mode::Line(_) => forward(whole_line(&self.pending)),
            Mode::Long => forward(Piece::Part { bytes: &self.pending, first: false, last: true }),
            Mode::Refused(size) => forward(Piece::Refused { size }),
        }
        self.pending.clear();
        self.pending.shrink_to(SMALL);
    }

    /// Buffers the beginning of a line, within the limits.
    fn hold(&mut self, mut bytes: &[u8], forward: &mut impl FnMut(Piece<'_>)) {
        while !bytes.is_empty() {
            let limit = match &mut self.mode {
                Mode::Refused(size) => {
                    *size = size.saturating_add(bytes.len() as u64);
                    return;
                }
                Mode::Long => LONGEST_PIECE,
                Mode::Line(beginning) => {
                    // Bytes that exceed a piece are ignored, so that the result does not depend on the boundaries of
                    // the reads.
                    let room = LONGEST_PIECE.saturating_sub(self.pending.len());
                    *beginning = beginning.and_then(bytes.get(..room).unwrap_or(bytes));
                    if *beginning == Beginning::Message { LONGEST_MESSAGE } else { LONGEST_PIECE }
                }
            };
            let room = limit.saturating_sub(self.pending.len());
            if bytes.len() <= room {
                self.pending.extend_from_slice(bytes);
                return;
            }
            if limit == LONGEST_MESSAGE {
                self.mode = Mode::Refused(self.pending.len() as u64);
                self.pending = Vec::new();
                continue;
            }
            let (fitting, rest) = bytes.split_at(room);
            bytes = rest;
            self.pending.extend_from_slice(fitting);
            self.forward_part(self.mode != Mode::Long, forward);
            self.mode = Mode::Long;
        }
    }

    fn forward_part(&mut self, first: bool, forward: &mut impl FnMut(Piece<'_>)) {
        let cut = whole_characters(&self.pending);
        if cut == 0 {
            return;
        }
        let (part, _) = self.pending.split_at(cut);
        forward(Piece::Part { bytes: part, first, last: false });
        self.pending.drain(..cut);
    }
}

fn whole_line(line: &[u8]) -> Piece<'_> {
    std::str::from_utf8(line).map_or(Piece::Bytes(line), Piece::Line)
}

/// Forwards complete lines, none of which is longer than a piece.
fn whole_lines(lines: &str, forward: &mut impl FnMut(Piece<'_>)) {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', lines.as_bytes()) {
        forward(Piece::Line(lines.get(start..end).unwrap_or_default()));
        start = end + 1;
    }
}

/// The length of the longest prefix that ends at a UTF-8 character boundary. Returns the whole length if the end is not
/// incomplete UTF-8.
fn whole_characters(bytes: &[u8]) -> usize {
    let all = bytes.len();
    for back in 1..=3.min(all) {
        let Some(byte) = bytes.get(all - back) else { break };
        let needs = match byte {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x80..=0xBF => continue,
            _ => return all,
        };
        return if needs > back { all - back } else { all };
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The forwarded pieces, owned, with the parts of one line joined.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Seen {
        Line(Vec<u8>),
        Refused(u64),
    }

    fn split<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Seen> {
        let mut splitter = Splitter::with_messages();
        let mut seen = Vec::new();
        let mut long: Vec<u8> = Vec::new();
        let mut see = |piece: Piece<'_>| match piece {
            Piece::Line(line) => seen.push(Seen::Line(line.as_bytes().to_vec())),
            Piece::Bytes(line) => {
                assert!(std::str::from_utf8(line).is_err());
                seen.push(Seen::Line(line.to_vec()));
            }
            Piece::Part { bytes, first, last } => {
                assert!(bytes.len() <= LONGEST_PIECE);
                assert_eq!(first, long.is_empty());
                long.extend_from_slice(bytes);
                if last {
                    seen.push(Seen::Line(std::mem::take(&mut long)));
                }
            }
            Piece::Refused { size } => seen.push(Seen::Refused(size)),
        };
        for chunk in chunks {
            splitter.feed(chunk, &mut see);
        }
        splitter.finish(&mut see);
        seen
    }

    fn line(text: &[u8]) -> Seen {
        Seen::Line(text.to_vec())
    }

    #[test]
    fn lines_are_cut_at_newlines_wherever_the_reads_end() {
        assert_eq!(
            split([&b"a\nb"[..], b"c\n", b"\n", b"d\n"]),
            [line(b"a"), line(b"bc"), line(b""), line(b"d")]
        );
    }

    #[test]
    fn a_last_line_without_newline_counts() {
        assert_eq!(split([&b"a\nb"[..]]), [line(b"a"), line(b"b")]);
        assert_eq!(split([&b"a\n"[..]]), [line(b"a")]);
        assert_eq!(split([&b""[..]]), []);
    }

    #[test]
    fn a_line_of_64_mib_is_forwarded_in_bounded_memory() {
        let chunk = vec![b'x'; 64 * 1024];
        let mut splitter = Splitter::with_messages();
        let mut bytes = 0;
        let mut forward = |piece: Piece<'_>| match piece {
            Piece::Part { bytes: part, .. } => bytes += part.len(),
            other => panic!("{other:?}"),
        };
        for _ in 0..1024 {
            splitter.feed(&chunk, &mut forward);
            assert!(splitter.pending.capacity() <= 2 * LONGEST_PIECE);
        }
        splitter.feed(b"\n", &mut forward);
        assert_eq!(bytes, 64 * 1024 * 1024);
        assert!(splitter.pending.capacity() <= 2 * SMALL);
    }

    #[test]
    fn a_message_is_held_up_to_4_mib_and_a_longer_one_refused() {
        let mut long = b" ~{".to_vec();
        long.resize(LONGEST_MESSAGE, b'x');
        assert_eq!(split([&long[..], b"\n"]), [line(&long)]);
        long.resize(LONGEST_MESSAGE + 5, b'x');
        let after = [Seen::Refused(LONGEST_MESSAGE as u64 + 5), line(b"next")];
        assert_eq!(split([&long[..], b"\nnext\n"]), after);
        assert_eq!(split(long.chunks(1000).chain([&b"\nnext"[..]])), after);
    }

    #[test]
    fn where_messages_are_not_expected_a_long_line_that_looks_like_one_is_output() {
        let mut line = b"~{".to_vec();
        line.resize(LONGEST_MESSAGE + 5, b'x');
        let mut splitter = Splitter::without_messages();
        let mut bytes = 0;
        let mut forward = |piece: Piece<'_>| match piece {
            Piece::Part { bytes: part, .. } => bytes += part.len(),
            other => panic!("{other:?}"),
        };
        splitter.feed(&line, &mut forward);
        splitter.finish(&mut forward);
        assert_eq!(bytes, LONGEST_MESSAGE + 5);
    }

    #[test]
    fn white_space_before_a_message_is_not_looked_at_again_with_every_read() {
        // 1 MiB byte by byte: if all bytes were examined again for each new one, this would take minutes.
        let mut splitter = Splitter::with_messages();
        let mut forward = |piece: Piece<'_>| panic!("{piece:?}");
        for _ in 0..LONGEST_PIECE - 1 {
            splitter.feed(b" ", &mut forward);
        }
        splitter.feed(b"~{}", &mut |piece| assert!(matches!(piece, Piece::Part { first: true, .. })));
        assert!(splitter.is_inside_long_line());
    }

    #[test]
    fn the_beginning_of_a_message_is_known_over_reads() {
        let rest = vec![b'x'; LONGEST_PIECE + 10];
        let chunks = [&b"  "[..], b" ~", b"{", &rest, b"\n"];
        let whole: Vec<u8> = [&b"   ~{"[..], &rest].concat();
        assert_eq!(split(chunks), [line(&whole)]);
    }

    #[test]
    fn no_character_is_cut_between_parts() {
        let text = "x".to_owned() + &"ä€😀".repeat(LONGEST_PIECE / 4);
        let mut splitter = Splitter::with_messages();
        let mut whole = String::new();
        let mut forward = |piece: Piece<'_>| match piece {
            Piece::Part { bytes, .. } => whole.push_str(std::str::from_utf8(bytes).unwrap()),
            other => panic!("{other:?}"),
        };
        for chunk in text.as_bytes().chunks(65_537) {
            splitter.feed(chunk, &mut forward);
        }
        splitter.finish(&mut forward);
        assert_eq!(whole, text);
    }

    #[test]
    fn half_a_character_waits_for_its_other_half() {
        let mut splitter = Splitter::with_messages();
        let mut parts = Vec::new();
        let mut forward = |piece: Piece<'_>| {
            let Piece::Part { bytes, .. } = piece else { panic!("{piece:?}") };
            parts.push(bytes.len());
        };
        splitter.feed(&vec![b'x'; LONGEST_PIECE + 1], &mut forward);
        splitter.feed(b"\xf0\x9f", &mut forward);
        splitter.flush_part(&mut forward);
        splitter.flush_part(&mut forward);
        splitter.feed(b"\x98\x80\n", &mut forward);
        assert_eq!(parts, [LONGEST_PIECE, 1, 4]);
    }

    #[test]
    fn a_part_can_be_forwarded_before_it_is_full() {
        let mut splitter = Splitter::with_messages();
        let mut lengths = Vec::new();
        let mut forward = |piece: Piece<'_>| {
            let Piece::Part { bytes, last, .. } = piece else { panic!("{piece:?}") };
            lengths.push((bytes.len(), last));
        };
        splitter.flush_part(&mut forward);
        splitter.feed(&vec![b'x'; LONGEST_PIECE + 7], &mut forward);
        splitter.flush_part(&mut forward);
        splitter.feed(b"yy\n", &mut forward);
        assert_eq!(lengths, [(LONGEST_PIECE, false), (7, false), (2, true)]);
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            4 => Just(b"\n".to_vec()),
            2 => Just(b"~{".to_vec()),
            1 => (0usize..3).prop_map(|mib| vec![b' '; mib * 700_000]),
            2 => Just("ä😀".as_bytes().to_vec()),
            4 => proptest::collection::vec(any::<u8>(), 0..40),
            1 => (0usize..3).prop_map(|mib| vec![b'z'; mib * 700_000]),
        ];
        proptest::collection::vec(token, 0..20).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_chunking_gives_the_same_lines(bytes in stream(), sizes in proptest::collection::vec(1usize..100_000, 1..20)) {
            let mut chunks = Vec::new();
            let mut rest = &bytes[..];
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, more) = rest.split_at((*size).min(rest.len()));
                chunks.push(chunk);
                rest = more;
            }
            prop_assert_eq!(split(chunks), split([&bytes[..]]));
        }

        #[test]
        fn nothing_is_lost_but_refused_messages(bytes in stream()) {
            let seen = split([&bytes[..]]);
            let mut expected: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
            if expected.last().is_some_and(|last| last.is_empty()) { expected.pop(); }
            prop_assert_eq!(seen.len(), expected.len());
            for (seen, expected) in seen.iter().zip(expected) {
                match seen {
                    Seen::Line(line) => prop_assert_eq!(&line[..], expected),
                    Seen::Refused(size) => prop_assert_eq!(*size, expected.len() as u64),
                }
            }
        }
    }
}
