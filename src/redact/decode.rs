//! The encodings in which a text may contain another: escapes of JSON, Rust, C, Python and JavaScript, URLs and forms,
//! HTML, base64, hex and lists of bytes.

/// Maximum number of backslashes in a run. That is enough for six levels of quoting.
const MOST_BACKSLASHES: usize = 64;

/// The number of times that `%` may have been encoded again: `%252541` is `A`.
const MOST_PERCENTS: usize = 3;

/// Maximum length of an HTML entity, with its `&` and `;`.
const LONGEST_ENTITY: usize = 12;

/// Length of the shortest base64 run that can hold eight bytes.
const SHORTEST_BASE64: usize = 11;
/// Length of the shortest hex run that can hold eight bytes.
const SHORTEST_HEX: usize = 16;

/// Minimum length of a list of bytes.
const SHORTEST_LIST: usize = 8;
/// Maximum number of digits in a group of a hex dump.
const LONGEST_GROUP: usize = 16;
/// A longer separator, such as an indentation, ends a list of bytes.
const LONGEST_SEPARATOR: usize = 32;

/// A decoded character or byte: its UTF-8, and the position after it.
pub(super) struct Read {
    bytes: [u8; 4],
    length: usize,
    pub(super) next: usize,
}

impl Read {
    fn byte(byte: u8, next: usize) -> Self {
        Self { bytes: [byte, 0, 0, 0], length: 1, next }
    }

    fn character(code: u32, next: usize) -> Option<Self> {
        let mut bytes = [0; 4];
        let length = char::from_u32(code)?.encode_utf8(&mut bytes).len();
        Some(Self { bytes, length, next })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Returns true if an escape or an encoded run can begin with this byte.
pub(super) fn begins_encoded(byte: u8) -> bool {
    matches!(byte, b'\\' | b'%' | b'+' | b'&')
}

/// Calls `each` with every reading of the text at `at`: the plain byte, and its decoding in each encoding at any level
/// of quoting.
pub(super) fn readings(text: &[u8], at: usize, mut each: impl FnMut(Read)) {
    let Some(&byte) = text.get(at) else { return };
    each(Read::byte(byte, at + 1));
    match byte {
        b'+' => each(Read::byte(b' ', at + 1)),
        b'&' => entity(text, at).into_iter().for_each(each),
        b'%' => {
            let mut digits = at + 1;
            for _ in 0..=MOST_PERCENTS {
                byte_or_character(hex(text, digits, 2), digits + 2, &mut each);
                if text.get(digits) == Some(&b'u') {
                    unicode(text, digits + 1, *b"%u").into_iter().for_each(&mut each);
                }
                if text.get(digits..digits + 2) != Some(b"25") {
                    break;
                }
                digits += 2;
            }
        }
        b'\\' => {
            let run = backslashes(text, at);
            for length in [2, 4, 8, 16].into_iter().filter(|length| *length <= run) {
                each(Read::byte(b'\\', at + length));
            }
            escaped(text, at + run, each);
        }
        _ => {}
    }
}

fn backslashes(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    rest.iter().take(MOST_BACKSLASHES).take_while(|byte| **byte == b'\\').count()
}

/// Reads the part of an escape after its backslashes.
fn escaped(text: &[u8], at: usize, mut each: impl FnMut(Read)) {
    let Some(&byte) = text.get(at) else { return };
    let plain = match byte {
        b'n' => Some(b'\n'),
        b't' => Some(b'\t'),
        b'r' => Some(b'\r'),
        b'b' => Some(8),
        b'f' => Some(12),
        b'v' => Some(11),
        b'a' => Some(7),
        b'e' => Some(27),
        b'0' => Some(0),
        b'u' | b'x' | b'\\' => None,
        byte if byte.is_ascii_punctuation() => Some(byte),
        _ => None,
    };
    plain.map(|plain| Read::byte(plain, at + 1)).into_iter().for_each(&mut each);
    match byte {
        b'u' => unicode(text, at + 1, *b"\\u").into_iter().for_each(each),
        b'U' => {
            let character = hex(text, at + 1, 8).and_then(|code| Read::character(code, at + 9));
            character.into_iter().for_each(each);
        }
        b'x' => byte_or_character(hex(text, at + 1, 2), at + 3, each),
        b'0'..=b'3' => byte_or_character(octal(text, at), at + 3, each),
        _ => {}
    }
}

/// A code below 256 is a byte of UTF-8 in some languages (Rust, C, URLs) and a character in others (Python,
/// JavaScript).
fn byte_or_character(code: Option<u32>, next: usize, mut each: impl FnMut(Read)) {
    let Some(code) = code else { return };
    if code >= 0x80 {
        Read::character(code, next).into_iter().for_each(&mut each);
    }
    u8::try_from(code).ok().map(|byte| Read::byte(byte, next)).into_iter().for_each(each);
}

/// Reads `00e9`, `{e9}`, or both halves of a surrogate pair. `mark` precedes the second half.
fn unicode(text: &[u8], at: usize, mark: [u8; 2]) -> Option<Read> {
    if text.get(at) == Some(&b'{') {
        let digits = text.get(at + 1..)?.iter().take(7).position(|byte| *byte == b'}')?;
        return Read::character(hex(text, at + 1, digits)?, at + digits + 2);
    }
    let code = hex(text, at, 4)?;
    if !(0xd800..0xdc00).contains(&code) {
        return Read::character(code, at + 4);
    }
    let quoted = backslashes(text, at + 4).saturating_sub(1);
    let second = at + 4 + quoted;
    let low = text.get(second..second + 2).filter(|found| **found == mark)?;
    let second = second + low.len();
    let low = hex(text, second, 4)?;
    let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    Read::character(0x1_0000 + ((code - 0xd800) << 10) + low, second + 4)
}

fn octal(text: &[u8], at: usize) -> Option<u32> {
    let mut digits =
        text.get(at..at + 3)?.iter().map(|byte| byte.checked_sub(b'0').filter(|digit| *digit < 8));
    digits.try_fold(0_u32, |code, digit| Some(code * 8 + u32::from(digit?)))
}

fn hex(text: &[u8], at: usize, digits: usize) -> Option<u32> {
    let digits = text.get(at..at + digits).filter(|digits| !digits.is_empty())?;
    digits.iter().try_fold(0_u32, |code, digit| Some(code * 16 + char::from(*digit).to_digit(16)?))
}

/// `&amp;`, `&#38;`, `&#x26;`.
fn entity(text: &[u8], at: usize) -> Option<Read> {
    let rest = text.get(at..)?;
    let end = rest.iter().take(LONGEST_ENTITY).position(|byte| *byte == b';')?;
    let name = std::str::from_utf8(rest.get(1..end)?).ok()?;
    let code = match name {
        "amp" => 0x26,
        "lt" => 0x3c,
        "gt" => 0x3e,
        "quot" => 0x22,
        "apos" => 0x27,
        _ => {
            let digits = name.strip_prefix('#')?;
            match digits.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => digits.parse().ok()?,
            }
        }
    };
    Read::character(code, at + end + 1)
}

/// A text decoded from the searched one, with the origin of each of its bytes.
#[derive(Default)]
pub(super) struct Layer {
    pub(super) bytes: Vec<u8>,
    places: Vec<(u32, u32)>,
}

impl Layer {
    /// The range of the original text from which the bytes from `start` to `end` were decoded. `self` may be the
    /// original text, which has no recorded positions.
    pub(super) fn origin(&self, start: usize, end: usize) -> (usize, usize) {
        let wide = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
        match (self.places.get(start), self.places.get(end.saturating_sub(1))) {
            (Some(first), Some(last)) => (wide(first.0), wide(last.1)),
            _ => (start, end),
        }
    }

    fn push(&mut self, byte: u8, from: &Layer, start: usize, end: usize) {
        // A searched text is never this long.
        let narrow = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        let (start, end) = from.origin(start, end);
        self.bytes.push(byte);
        self.places.push((narrow(start), narrow(end)));
    }

    /// The text with one level of escapes removed, and the text with one level of URL encoding removed, each only if it
    /// contains any.
    pub(super) fn decoded(&self) -> impl Iterator<Item = Layer> {
        [(b"\\" as &[u8]), b"%&"].into_iter().filter_map(|marks| self.decoded_at(marks))
    }

    fn decoded_at(&self, marks: &[u8]) -> Option<Layer> {
        let text = &self.bytes;
        if !text.iter().any(|byte| marks.contains(byte)) {
            return None;
        }
        let (mut layer, mut at, mut changed) = (Layer::default(), 0, false);
        while let Some(&byte) = text.get(at) {
            let mut read = Read::byte(byte, at + 1);
            match byte {
                byte if !marks.contains(&byte) => {}
                b'\\' if text.get(at + 1) == Some(&b'\\') => read = Read::byte(b'\\', at + 2),
                b'\\' => escaped(text, at + 1, |coded| read = coded),
                b'%' => {
                    let coded = hex(text, at + 1, 2).and_then(|code| u8::try_from(code).ok());
                    read = coded.map_or(read, |byte| Read::byte(byte, at + 3));
                }
                _ => read = entity(text, at).unwrap_or(read),
            }
            changed |= read.next > at + 1;
            for byte in read.bytes() {
                layer.push(*byte, self, at, read.next);
            }
            at = read.next;
        }
        changed.then_some(layer)
    }

    /// Decodes runs of base64 and hex digits at every alignment, with and without escapes, and lists of bytes.
    pub(super) fn unpacked(&self, mut each: impl FnMut(Layer)) {
        self.unpack_lists(|at, _| self.decimal(at), &mut each);
        self.unpack_lists(|at, is_first| self.hexadecimal(at, is_first), &mut each);
        self.unpack_runs(|at, _| self.digit(at), &mut each);
        if self.bytes.iter().any(|byte| begins_encoded(*byte)) {
            // An escape at the beginning may not belong to the run.
            for first_too in [false, true] {
                let digit = |at, is_first: bool| {
                    let escaped = || self.escaped_digit(at).filter(|_| first_too || !is_first);
                    self.digit(at).or_else(escaped)
                };
                self.unpack_runs(digit, &mut each);
            }
        }
    }

    /// Decodes bytes with separators. `bytes` returns the bytes of the number at a position, and the position after it.
    fn unpack_lists(
        &self,
        bytes: impl Fn(usize, bool) -> Option<(Vec<(u8, usize)>, usize)>,
        each: &mut impl FnMut(Layer),
    ) {
        let (mut list, mut at) = (Layer::default(), 0);
        while at < self.bytes.len() {
            if let Some((bytes, end)) = bytes(at, list.bytes.is_empty()) {
                for (byte, start) in bytes {
                    list.push(byte, self, start, end);
                }
                let rest = self.bytes.get(end..).unwrap_or_default();
                // The number was joined to other text.
                let ends = rest.first().is_some_and(u8::is_ascii_alphanumeric);
                let between = rest.iter().take_while(|byte| !byte.is_ascii_alphanumeric()).count();
                at = end + between;
                if ends || between > LONGEST_SEPARATOR {
                    end_list(&mut list, each);
                }
            } else {
                end_list(&mut list, each);
                at += 1;
            }
        }
        end_list(&mut list, each);
    }

    fn is_alphanumeric(&self, at: usize) -> bool {
        self.bytes.get(at).is_some_and(u8::is_ascii_alphanumeric)
    }

    /// `83`.
    fn decimal(&self, at: usize) -> Option<(Vec<(u8, usize)>, usize)> {
        let rest = self.bytes.get(at..)?;
        let digits = rest.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
        let text = std::str::from_utf8(rest.get(..digits)?).ok()?;
        let byte = text.parse().ok().filter(|_| !self.is_alphanumeric(at + digits))?;
        Some((vec![(byte, at)], at + digits))
    }

    /// `53`, `0x53`, `5374`.
    fn hexadecimal(&self, at: usize, is_first: bool) -> Option<(Vec<(u8, usize)>, usize)> {
        let rest = self.bytes.get(at..)?;
        let at = if rest.starts_with(b"0x") || rest.starts_with(b"0X") { at + 2 } else { at };
        let rest = self.bytes.get(at..)?;
        let digits = rest.iter().take(LONGEST_GROUP).take_while(|byte| byte.is_ascii_hexdigit()).count();
        if is_first && digits % 2 == 1 {
            // The first digit may belong to the preceding text.
            return None;
        }
        let digits = digits & !1;
        let byte = |start| u8::try_from(hex(&self.bytes, start, 2)?).ok();
        let bytes = (at..at + digits).step_by(2).filter_map(|start| Some((byte(start)?, start)));
        (digits > 0).then(|| (bytes.collect(), at + digits))
    }

    fn unpack_runs(&self, digit: impl Fn(usize, bool) -> Option<Digit>, each: &mut impl FnMut(Layer)) {
        let mut run: Vec<Digit> = Vec::new();
        let mut at = 0;
        while at <= self.bytes.len() {
            if let Some(digit) = digit(at, run.is_empty()) {
                at = digit.end;
                run.push(digit);
            } else if let Some(end) = self.line_break(at).filter(|_| !run.is_empty()) {
                at = end;
            } else {
                if run.len() >= SHORTEST_BASE64 {
                    unpack_base64(self, &run, each);
                    unpack_hex(self, &run, each);
                }
                run.clear();
                at += 1;
            }
        }
    }

    /// The base64 digit at a position.
    fn digit(&self, start: usize) -> Option<Digit> {
        let byte = *self.bytes.get(start)?;
        base64_value(byte).map(|value| Digit { byte, value, start, end: start + 1 })
    }

    fn escaped_digit(&self, start: usize) -> Option<Digit> {
        let mut digit = None;
        readings(&self.bytes, start, |read| {
            if let [byte] = read.bytes()
                && let Some(value) = base64_value(*byte)
            {
                digit = Some(Digit { byte: *byte, value, start, end: read.next });
            }
        });
        digit
    }

    /// The end of the white space at this position, if it only breaks the line of a longer run.
    fn line_break(&self, at: usize) -> Option<usize> {
        let rest = self.bytes.get(at..)?;
        let white = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let breaks = rest.iter().take(white).any(|byte| matches!(byte, b'\n' | b'\r'));
        let goes_on = rest.get(white).is_some_and(|byte| base64_value(*byte).is_some());
        (breaks && goes_on).then_some(at + white)
    }
}

fn end_list(list: &mut Layer, each: &mut impl FnMut(Layer)) {
    let list = std::mem::take(list);
    if list.bytes.len() >= SHORTEST_LIST {
        each(list);
    }
}

/// A base64 digit, which may also be a hex digit.
struct Digit {
    byte: u8,
    value: u8,
    start: usize,
    end: usize,
}

impl Digit {
    fn hex(&self) -> Option<u8> {
        char::from(self.byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
    }
}

fn unpack_base64(from: &Layer, run: &[Digit], each: &mut impl FnMut(Layer)) {
    for skipped in 0..4 {
        let mut layer = Layer::default();
        for group in run.get(skipped..).unwrap_or_default().chunks(4) {
            for (index, pair) in group.windows(2).enumerate() {
                let [one, two] = pair else { continue };
                let shift = 2 * (index + 1);
                layer.push(one.value << shift | two.value >> (6 - shift), from, one.start, two.end);
            }
        }
        each(layer);
    }
}

fn unpack_hex(from: &Layer, run: &[Digit], each: &mut impl FnMut(Layer)) {
    if run.iter().filter(|digit| digit.hex().is_some()).count() < SHORTEST_HEX {
        return;
    }
    for skipped in 0..2 {
        let mut layer = Layer::default();
        for pair in run.get(skipped..).unwrap_or_default().chunks_exact(2) {
            let [one, two] = pair else { continue };
            // A pair that is not a number becomes a byte that occurs in no text.
            let byte = one.hex().zip(two.hex()).map_or(0xff, |(high, low)| high << 4 | low);
            layer.push(byte, from, one.start, two.end);
        }
        each(layer);
    }
}

impl From<&[u8]> for Layer {
    fn from(text: &[u8]) -> Self {
        Self { bytes: text.to_owned(), places: Vec::new() }
    }
}

/// Accepts both alphabets.
fn base64_value(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}
