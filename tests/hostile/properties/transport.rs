//! A worker's output, cut into lines: the same lines for any sizes of reads, nothing lost, memory bounded.

use std::cell::Cell;

use start_worker::protocol::transport::{LONGEST_MESSAGE, LONGEST_PIECE, Piece, Splitter};

/// Maximum length of an expanded input, in bytes: more than any limit of the transport.
const MOST: usize = LONGEST_MESSAGE + (1 << 17);

/// The output, owned; the parts of one line joined.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Line(Vec<u8>),
    Refused(u64),
}

/// The first four bytes are the sizes of chunks, round and round, the rest is the stream. Where the first two are
/// `0xff` it is [unfolded](unfold): that takes a thousand times as long.
pub fn check(data: &[u8]) {
    let (sizes, rest) = data.split_at(data.len().min(4));
    let stream = if sizes.starts_with(&[0xff, 0xff]) { unfold(rest) } else { rest.to_vec() };
    let mut lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    for messages in [true, false] {
        let whole = split(&stream, &[usize::MAX], messages);
        assert_eq!(whole.len(), lines.len());
        for (seen, line) in whole.iter().zip(&lines) {
            match seen {
                Seen::Line(seen) => assert!(seen == *line),
                Seen::Refused(size) => {
                    assert!(messages && *size == line.len() as u64 && line.len() > LONGEST_MESSAGE);
                    assert!(line.trim_ascii_start().starts_with(b"~{"));
                }
            }
        }
        // Large streams in large chunks, to save time.
        let times = if stream.len() < 1 << 16 { 1 } else { 4099 };
        let sizes: Vec<usize> = sizes.iter().map(|size| (1 + usize::from(*size)) * times).collect();
        assert!(whole == split(&stream, &sizes, messages), "another chunking, other lines");
    }
}

/// `0xff b n` stands for `n` × 32 KiB of the byte `b`, `0xfe b n` for as many as lead to `n` bytes before a multiple of
/// 32 KiB. So a small input reaches the limits and the bytes right at them.
fn unfold(mut data: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let [first, rest @ ..] = data {
        match (first, rest) {
            // Not newlines: millions of lines take their time, and reach nothing.
            (0xfe..=0xff, [byte, count, rest @ ..]) if *byte != b'\n' => {
                let count = usize::from(*count);
                let to_multiple = stream.len().next_multiple_of(1 << 15) - stream.len();
                let size = if *first == 0xff { count << 15 } else { to_multiple.saturating_sub(count) };
                let size = size.min(MOST.saturating_sub(stream.len()));
                stream.resize(stream.len() + size, *byte);
                data = rest;
            }
            (byte, rest) => {
                stream.push(*byte);
                data = rest;
            }
        }
    }
    stream
}

fn split(stream: &[u8], sizes: &[usize], messages: bool) -> Vec<Seen> {
    let mut splitter = if messages { Splitter::with_messages() } else { Splitter::without_messages() };
    let (mut seen, mut long, out) = (Vec::new(), Vec::new(), Cell::new(0_usize));
    let is_out = |bytes: usize| out.set(out.get() + bytes);
    let mut cut = false;
    let mut forward = |piece: Piece<'_>| match piece {
        Piece::Line(line) => {
            is_out(line.len() + 1);
            seen.push(Seen::Line(line.as_bytes().to_vec()));
        }
        Piece::Bytes(line) => {
            assert!(std::str::from_utf8(line).is_err());
            is_out(line.len() + 1);
            seen.push(Seen::Line(line.to_vec()));
        }
        Piece::Part { bytes, first, last } => {
            assert!(bytes.len() <= LONGEST_PIECE && first == long.is_empty());
            long.extend_from_slice(bytes);
            cut |= std::str::from_utf8(bytes).is_err();
            is_out(bytes.len() + usize::from(last));
            if last {
                assert!(!cut || std::str::from_utf8(&long).is_err(), "a character is cut");
                cut = false;
                seen.push(Seen::Line(std::mem::take(&mut long)));
            }
        }
        Piece::Refused { size } => {
            is_out(usize::try_from(size).unwrap_or(usize::MAX) + 1);
            seen.push(Seen::Refused(size));
        }
    };
    let (mut rest, mut fed) = (stream, 0);
    for size in sizes.iter().cycle() {
        if rest.is_empty() || sizes.is_empty() {
            break;
        }
        let chunk;
        (chunk, rest) = rest.split_at((*size).min(rest.len()));
        splitter.feed(chunk, &mut forward);
        fed += chunk.len();
        // Input that has not come out is buffered: at most one piece where there are no messages.
        assert!(messages || fed - out.get() <= LONGEST_PIECE + 4);
    }
    splitter.finish(&mut forward);
    // A last line may have no newline.
    assert!(out.get() == fed || out.get() == fed + 1);
    seen
}
