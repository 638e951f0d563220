//! What a worker writes, cut into lines: the same lines however it was read, nothing lost, memory bounded.

use std::cell::Cell;

use start_worker::protocol::transport::{LONGEST_MESSAGE, LONGEST_PIECE, Piece, Splitter};

/// What one input may become at most, in bytes: more than any limit of the transport.
const MOST: usize = 6 << 20;

/// What came out, owned; the parts of one line joined.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Line(Vec<u8>),
    Refused(u64),
}

/// Splits a stream in the chunks that `sizes` say, round and round.
pub(crate) fn check(data: &[u8]) {
    let (sizes, rest) = data.split_at(data.len().min(4));
    let stream = unfold(rest);
    for messages in [true, false] {
        let whole = split(&stream, &[usize::MAX], messages);
        // The lines are the stream's.
        let mut lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
        if lines.last().is_some_and(|last| last.is_empty()) {
            lines.pop();
        }
        assert_eq!(whole.len(), lines.len());
        for (seen, line) in whole.iter().zip(lines) {
            match seen {
                Seen::Line(seen) => assert!(seen == line),
                Seen::Refused(size) => {
                    assert!(messages && *size == line.len() as u64 && line.len() > LONGEST_MESSAGE);
                    assert!(line.trim_ascii_start().starts_with(b"~{"));
                }
            }
        }
        let small = stream.len() < 1 << 16;
        let sizes: Vec<usize> =
            sizes.iter().map(|size| 1 + usize::from(*size) * if small { 1 } else { 4099 }).collect();
        assert!(whole == split(&stream, &sizes, messages), "another chunking, other lines");
    }
}

/// `0xff b n` stands for `n` × 32 KiB of the byte `b`: so a small input reaches the limits.
fn unfold(mut data: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let [first, rest @ ..] = data {
        match (first, rest) {
            (0xff, [byte, times, rest @ ..]) => {
                let size = (usize::from(*times) << 15).min(MOST.saturating_sub(stream.len()));
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
            is_out(bytes.len() + usize::from(last));
            if last {
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
        // What is not out is held: never more than a piece where there are no messages.
        assert!(messages || fed - out.get() <= LONGEST_PIECE + 4);
    }
    splitter.finish(&mut forward);
    // A last line may have no newline.
    assert!(out.get() == fed || out.get() == fed + 1);
    seen
}
