//! Key files, as `GKeyFile` reads them: the lines of a file and their kinds. PURE: bytes in, values out.
//!
//! The rules are `GLib`'s (`gkeyfile.c`). A line ends with `\n`; one `\r` before that belongs to the line end. White
//! space at the start of a line is ignored. `#` starts a comment. Only blanks may follow a section's `]`. A pair's
//! value begins after the white space behind the first `=`, and extends to the end of the line. A repeated section
//! continues the first one; of a repeated key, the last one counts. A single line of any other form makes `GLib` refuse
//! the file.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// The line, without its end.
    pub text: std::borrow::Cow<'a, [u8]>,
    /// `\n`, `\r\n`, or empty (only the last line).
    pub end: &'static [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Blank, or a comment.
    Nothing,
    /// `[name]`.
    Section(&'a [u8]),
    /// `key=value`.
    Pair {
        key: &'a [u8],
        /// The offset of the value in the line.
        value_at: usize,
    },
    /// None of these: makes `GLib` refuse the file.
    Fault,
}

/// Splits a file into lines. Joined again, they are the same bytes.
pub fn lines(bytes: &[u8]) -> Vec<Line<'_>> {
    let split = bytes.split_inclusive(|byte| *byte == b'\n');
    split
        .map(|line| match line.strip_suffix(b"\n") {
            None => Line { text: line.into(), end: b"" },
            Some(text) => match text.strip_suffix(b"\r") {
                None => Line { text: text.into(), end: b"\n" },
                Some(text) => Line { text: text.into(), end: b"\r\n" },
            },
        })
        .collect()
}

pub fn bytes(lines: &[Line<'_>]) -> Vec<u8> {
    lines.iter().flat_map(|line| line.text.iter().chain(line.end)).copied().collect()
}

pub fn kind(line: &[u8]) -> Kind<'_> {
    let text = line.trim_ascii_start();
    if line.contains(&0) {
        return Kind::Fault;
    }
    match text.first() {
        None | Some(b'#') => return Kind::Nothing,
        Some(b'[') => {
            if let Some(name) = section(text) {
                return name.map_or(Kind::Fault, Kind::Section);
            }
        }
        Some(_) => {}
    }
    let Some(equals) = text.iter().position(|byte| *byte == b'=').filter(|at| *at > 0) else {
        return Kind::Fault;
    };
    let (key, value) = text.split_at(equals);
    let key = key.trim_ascii_end();
    let value = value.get(1..).unwrap_or_default().trim_ascii_start();
    if is_key(key) { Kind::Pair { key, value_at: line.len() - value.len() } } else { Kind::Fault }
}

/// The section's name, if the line is a section header; `Some(None)`: it is a header with an invalid name.
#[expect(clippy::option_option, reason = "no section, a section with a bad name, a section")]
fn section(text: &[u8]) -> Option<Option<&[u8]>> {
    let end = text.iter().position(|byte| *byte == b']')?;
    let (name, rest) = text.split_at(end);
    if !rest.iter().skip(1).all(|byte| b" \t".contains(byte)) {
        return None;
    }
    let name = name.get(1..).unwrap_or_default();
    let good = !name.is_empty() && !name.iter().any(|byte| *byte == b'[' || byte.is_ascii_control());
    Some(good.then_some(name))
}

/// A key may include a language: `Name[de]`.
fn is_key(key: &[u8]) -> bool {
    let Some(bracket) = key.iter().position(|byte| b"[]".contains(byte)) else { return !key.is_empty() };
    let (name, language) = key.split_at(bracket);
    let inner = language.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    // GLib accepts any letter of any script here.
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || *byte >= 0x80 || b"-_.@".contains(byte);
    !name.is_empty() && name.last() != Some(&b' ') && inner.is_some_and(|inner| inner.iter().all(letter))
}

/// The number of the first line that makes `GLib` refuse the file.
pub fn first_fault(bytes: &[u8]) -> Option<usize> {
    let mut inside = false;
    let faulty = |line: &Line<'_>| match kind(&line.text) {
        Kind::Nothing => false,
        Kind::Section(_) => {
            inside = true;
            false
        }
        Kind::Pair { .. } => !inside,
        Kind::Fault => true,
    };
    lines(bytes).iter().position(faulty).map(|index| index + 1)
}

/// The effective value of a key in the sections whose names `wanted` accepts.
pub fn value(bytes: &[u8], wanted: impl Fn(&[u8]) -> bool, key: &str) -> Option<String> {
    let (mut inside, mut found) = (false, None);
    for line in lines(bytes) {
        match kind(&line.text) {
            Kind::Section(name) => inside = wanted(name),
            Kind::Pair { key: this, value_at } if inside && this == key.as_bytes() => {
                let value = line.text.get(value_at..).unwrap_or_default();
                found = Some(String::from_utf8_lossy(value).trim_end().to_owned());
            }
            _ => {}
        }
    }
    found.filter(|value| !value.is_empty())
}
