//! Finds all known secrets in a text, in one pass and in every encoding.
//!
//! The secrets are sorted. At each position of the text, the range of secrets with the same beginning is narrowed byte
//! by byte, where each encoding contributes its own reading of the text ([`readings`]). The cost depends neither on the
//! number of secrets nor on the number of their encodings. An automaton for all encodings of all secrets
//! (`aho-corasick`) would need about a hundred times their size, and could not recognize mixed encodings.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::decode::{Layer, begins_encoded, readings};
use super::{boundary_after, boundary_before};

/// Minimum length of a secret. Shorter strings would mask ordinary words of the log.
pub(super) const SHORTEST: usize = 8;

/// A match of this many leading bytes counts as the whole secret.
const TELLING: usize = 64;

/// Maximum nesting depth of encodings.
const LEVELS: u8 = 2;

/// The number of search steps for each byte of a text, in all encodings together, and the additional number for any
/// text.
const STEPS_A_BYTE: usize = 64;
const STEPS: usize = 1 << 16;

/// Known secrets, indexed for the search.
#[derive(Default)]
pub(super) struct Index {
    sorted: Vec<Stored>,
    /// The first bytes of each secret, in the same order.
    beginnings: Vec<u64>,
    /// The first bytes of the secrets that exceeded the limits.
    beginnings_only: BTreeSet<u64>,
    /// A filter for the possible first bytes.
    filter: Vec<u64>,
}

/// A secret, or the beginning of a long one.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) text: Arc<SecretString>,
    /// True if more of the secret follows.
    pub(super) is_cut: bool,
}

impl Stored {
    fn bytes(&self) -> &[u8] {
        self.text.expose_secret().as_bytes()
    }
}

/// The places at which a text may have been truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Before `…`, which marks truncation.
    AtMarks,
    /// Also at its end.
    AtTheEnd,
    /// Also at the end of each line.
    InLines,
}

impl Index {
    /// Builds the index from sorted secrets and from the beginnings of others.
    pub(super) fn new(sorted: Vec<Stored>, beginnings_only: BTreeSet<u64>) -> Self {
        let beginnings: Vec<u64> = sorted.iter().filter_map(|secret| beginning(secret.bytes())).collect();
        let words = ((beginnings.len() + beginnings_only.len()) / 4).next_power_of_two().max(16);
        let mut filter = vec![0_u64; words];
        for beginning in beginnings.iter().chain(&beginnings_only) {
            let (word, bit) = place(*beginning, words);
            if let Some(word) = filter.get_mut(word) {
                *word |= bit;
            }
        }
        Self { sorted, beginnings, beginnings_only, filter }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sorted.is_empty() && self.beginnings_only.is_empty()
    }

    /// The positions of secrets in a text, in order and without overlap. A remainder that takes too long to search is
    /// included, too.
    pub(super) fn find(&self, text: &str, cut: Cut) -> Vec<Range<usize>> {
        if self.is_empty() || text.len() < SHORTEST {
            return Vec::new();
        }
        let steps = text.len() * STEPS_A_BYTE + STEPS;
        let mut search = Search { index: self, cut, steps, found: Vec::new(), unknown_from: None };
        search.look(&Layer::from(text.as_bytes()), LEVELS);
        let Search { mut found, unknown_from, .. } = search;
        found.extend(unknown_from.map(|at| at..text.len()));
        found.sort_unstable_by_key(|span| span.start);
        let mut spans: Vec<Range<usize>> = Vec::new();
        for span in found {
            let span = boundary_before(text, span.start)..boundary_after(text, span.end);
            match spans.last_mut() {
                Some(last) if span.start < last.end => last.end = last.end.max(span.end),
                _ => spans.push(span),
            }
        }
        spans
    }

    fn may_begin(&self, beginning: u64) -> bool {
        let (word, bit) = place(beginning, self.filter.len());
        self.filter.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The secrets that begin with these bytes.
    fn beginning_with(&self, beginning: u64) -> Range<usize> {
        let start = self.beginnings.partition_point(|other| *other < beginning);
        let rest = self.beginnings.get(start..).unwrap_or_default();
        start..start + rest.partition_point(|other| *other == beginning)
    }

    /// Narrows a range of secrets with a common prefix to those that have this byte at `depth`.
    fn narrow(&self, range: &Range<usize>, depth: usize, byte: u8) -> Range<usize> {
        let secrets = self.sorted.get(range.clone()).unwrap_or_default();
        let at = |secret: &Stored| secret.bytes().get(depth).copied();
        let start = secrets.partition_point(|secret| at(secret) < Some(byte));
        let end = secrets.partition_point(|secret| at(secret) <= Some(byte));
        range.start + start..range.start + end
    }
}

/// The first bytes as a number with the same sort order.
pub(super) fn beginning(text: &[u8]) -> Option<u64> {
    text.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The filter's bit for a beginning. `words` is a power of two.
fn place(beginning: u64, words: usize) -> (usize, u64) {
    let hash = beginning.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let word = usize::try_from(hash >> 6).unwrap_or_default() & (words - 1);
    (word, 1 << (hash & 63))
}

struct Search<'i> {
    index: &'i Index,
    cut: Cut,
    /// The remaining number of steps.
    steps: usize,
    found: Vec<Range<usize>>,
    /// The position after which the text was not searched.
    unknown_from: Option<usize>,
}

/// A part of the text that matches the beginning of some secrets.
struct Reading {
    at: usize,
    depth: usize,
    secrets: Range<usize>,
    /// The first bytes read so far.
    beginning: u64,
}

impl Search<'_> {
    /// Searches a text, and the texts that it may contain in an encoding.
    fn look(&mut self, layer: &Layer, levels: u8) {
        let Some(steps) = self.steps.checked_sub(layer.bytes.len()) else {
            return self.give_up(layer, 0);
        };
        self.steps = steps;
        self.scan(layer);
        if levels == 0 {
            return;
        }
        layer.unpacked(|inner| {
            if inner.bytes.len() >= SHORTEST {
                self.look(&inner, levels - 1);
            }
        });
        for inner in layer.decoded() {
            self.look(&inner, levels - 1);
        }
    }

    fn scan(&mut self, layer: &Layer) {
        let text = &layer.bytes;
        let next_encoded = |from: usize| {
            text.iter().skip(from).position(|byte| begins_encoded(*byte)).map_or(text.len(), |at| from + at)
        };
        let mut encoded = next_encoded(0);
        for start in 0..text.len() {
            if encoded < start {
                encoded = next_encoded(start);
            }
            let first = Reading { at: start, depth: 0, secrets: 0..self.index.sorted.len(), beginning: 0 };
            let reading = match text.get(start..).and_then(beginning) {
                // The plain bytes, unless an encoding begins here.
                Some(bytes) if encoded >= start + SHORTEST => {
                    if !self.index.may_begin(bytes) {
                        continue;
                    }
                    let secrets = self.index.beginning_with(bytes);
                    Reading { at: start + SHORTEST, depth: SHORTEST, secrets, beginning: bytes }
                }
                None if encoded >= text.len() => break,
                _ => first,
            };
            match self.read(text, reading) {
                Ok(Some(end)) => {
                    let (start, end) = layer.origin(start, end);
                    self.found.push(start..end);
                }
                Ok(None) => {}
                Err(TooManySteps) => return self.give_up(layer, start),
            }
        }
    }

    /// Ends the search at this position because it takes too long.
    fn give_up(&mut self, layer: &Layer, start: usize) {
        let (at, _) = layer.origin(start, start + 1);
        self.unknown_from = Some(self.unknown_from.map_or(at, |before| before.min(at)));
    }

    /// The end of the longest secret that begins like the reading.
    fn read(&mut self, text: &[u8], first: Reading) -> Result<Option<usize>, TooManySteps> {
        let mut longest: Option<usize> = None;
        let mut readings_left = vec![first];
        while let Some(reading) = readings_left.pop() {
            self.steps = self.steps.checked_sub(1).ok_or(TooManySteps)?;
            if let Some(end) = self.end(text, &reading) {
                longest = longest.max(Some(end));
            }
            let Reading { at, depth, secrets, beginning } = reading;
            readings(text, at, |read| {
                let (mut depth, mut secrets, mut beginning) = (depth, secrets.clone(), beginning);
                for byte in read.bytes() {
                    secrets = self.index.narrow(&secrets, depth, *byte);
                    if depth < SHORTEST {
                        beginning = beginning << 8 | u64::from(*byte);
                    }
                    depth += 1;
                }
                let only = &self.index.beginnings_only;
                let may_be_one = !only.is_empty() && depth < SHORTEST || only.contains(&beginning);
                // The last character may have had more bytes than count.
                if !secrets.is_empty() || may_be_one && depth < SHORTEST + 4 {
                    readings_left.push(Reading { at: read.next, depth, secrets, beginning });
                }
            });
        }
        Ok(longest)
    }

    /// The end of the secret that the reading matches, if it is complete.
    fn end(&self, text: &[u8], reading: &Reading) -> Option<usize> {
        let Reading { at, depth, secrets, beginning } = reading;
        if *depth < SHORTEST {
            return None;
        }
        let to_the_end_of_line = || {
            let rest = text.get(*at..).unwrap_or_default();
            at + memchr::memchr(b'\n', rest).unwrap_or(rest.len())
        };
        if self.index.beginnings_only.contains(beginning) {
            return Some(to_the_end_of_line());
        }
        let first = self.index.sorted.get(secrets.clone())?.first()?;
        let is_whole = first.bytes().len() == *depth;
        if is_whole && first.is_cut {
            return Some(text.len());
        }
        let rest = text.get(*at..).unwrap_or_default();
        let is_marked = ["…", "\"…"].iter().any(|mark| rest.starts_with(mark.as_bytes()));
        let breaks_off = match self.cut {
            Cut::AtMarks => is_marked,
            Cut::AtTheEnd => is_marked || rest.is_empty(),
            Cut::InLines => is_marked || rest.is_empty() || rest.starts_with(b"\n"),
        };
        (is_whole || *depth >= TELLING || breaks_off).then_some(*at)
    }
}

/// The text contains too many near matches.
struct TooManySteps;
