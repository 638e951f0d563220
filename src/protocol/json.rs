//! Unparsed JSON: the members of an object, borrowed from the line. The fast path for a flood of `log` messages.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Maximum number of members of an object that is parsed, because each costs more memory than its text.
const MOST_MEMBERS: usize = 10_000;

/// Maximum length of a key in an object that is parsed, in bytes as written.
const LONGEST_KEY: usize = 1024;

/// Maximum size of the pieces in which a text with escapes is decoded, in bytes as written.
const PIECE: usize = 64 * 1024;

/// A JSON object's members in their original order. A name may occur twice: the last one counts.
#[derive(Debug)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

/// Returns the JSON object of a line that may be a message: without surrounding white space, the line begins with `~{`
/// and ends with `}`.
pub(super) fn object(line: &str) -> Option<&str> {
    let object = line.trim_ascii().strip_prefix('~')?;
    (object.starts_with('{') && object.ends_with('}')).then_some(object)
}

/// Returns the members of the body of a `log` message in its usual form: `type` before `body`, each once. Returns
/// `None` for any other line, which [`parse`](super::message::parse) classifies. That function yields the same body but
/// is slower, because it must keep the members of any type.
pub fn log_members(line: &str) -> Option<Members<'_>> {
    let LogMessage(members) = serde_json::from_str(object(line)?).ok()?;
    Some(members)
}

/// A JSON string's text, borrowed if it has no escapes. `None` if the value is not a string, or not Unicode
/// (`"\ud800"`).
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(raw.get()).ok().map(Cow::Owned)
}

/// Returns at most `most` bytes of a JSON string's text, and whether that is the whole text. Only the returned part is
/// decoded. `None` if the value is not a string, or if the returned part is not Unicode.
pub fn text_up_to(raw: &RawValue, most: usize) -> Option<(Cow<'_, str>, bool)> {
    let inner = inner(raw)?;
    let (kept, rest) = split_escaped(inner, most);
    Some((decoded(kept)?, rest.is_empty()))
}

/// Passes a JSON string's text to `piece` in pieces, so that a long text is never in memory a second time. Returns
/// false if the value is not a string, or not Unicode; a part of it may have been passed on by then.
pub fn text_in_pieces(raw: &RawValue, mut piece: impl FnMut(&str)) -> bool {
    let Some(mut rest) = inner(raw) else { return false };
    while !rest.is_empty() {
        let (next, more) = split_escaped(rest, PIECE);
        let Some(text) = decoded(next) else { return false };
        piece(&text);
        rest = more;
    }
    true
}

/// Returns true if [`text_in_pieces`] yields more than one piece for a JSON string of this length.
pub fn is_long(raw: &RawValue) -> bool {
    raw.get().len() > PIECE
}

/// The raw text between the quotes.
fn inner(raw: &RawValue) -> Option<&str> {
    raw.get().strip_prefix('"')?.strip_suffix('"')
}

fn decoded(inner: &str) -> Option<Cow<'_, str>> {
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(&format!("\"{inner}\"")).ok().map(Cow::Owned)
}

/// Splits the raw text of a JSON string after at most `most` bytes, but neither within a character or an escape nor
/// between the two escapes of one character. The first part is only empty if the text is.
fn split_escaped(inner: &str, most: usize) -> (&str, &str) {
    if inner.len() <= most {
        return (inner, "");
    }
    let bytes = inner.as_bytes();
    let mut end = 0;
    while end < most {
        let plain = memchr::memchr(b'\\', bytes.get(end..most).unwrap_or_default());
        let next = match plain {
            None => floor_char_boundary(inner, most),
            Some(0) => end + escape_length(bytes.get(end..).unwrap_or_default()),
            Some(length) => end + length,
        };
        if next > most || next == end {
            break;
        }
        end = next;
    }
    if end == 0 {
        // At least one character, however small `most` is.
        end = match bytes.first() {
            Some(b'\\') => escape_length(bytes),
            _ => inner.chars().next().map_or(0, char::len_utf8),
        };
    }
    inner.split_at_checked(end).unwrap_or((inner, ""))
}

/// The length of the escape at the beginning, or of both escapes if two make one character.
fn escape_length(bytes: &[u8]) -> usize {
    match bytes {
        [b'\\', b'u', b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B', _, _, b'\\', b'u', ..] => 12,
        [b'\\', b'u', ..] => 6,
        _ => 2,
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default()
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some(raw) = map.next_key::<&RawValue>()? {
            if members.len() >= MOST_MEMBERS || raw.get().len() > LONGEST_KEY {
                return Err(A::Error::custom("too many members, or a key that is too long"));
            }
            let key = text(raw).ok_or_else(|| A::Error::custom("a key that is not Unicode"))?;
            members.push((key, map.next_value()?));
        }
        Ok(Members(members))
    }
}

struct LogMessage<'a>(Members<'a>);

impl<'de> Deserialize<'de> for LogMessage<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LogVisitor)
    }
}

struct LogVisitor;

impl<'de> Visitor<'de> for LogVisitor {
    type Value = LogMessage<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a log message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let unusual = || A::Error::custom("not in the usual form");
        let (mut is_log, mut body) = (false, None);
        while let Some(key) = map.next_key::<&RawValue>()? {
            match key.get() {
                "\"type\"" => {
                    let kind: &RawValue = map.next_value()?;
                    if is_log || kind.get() != "\"log\"" {
                        return Err(unusual());
                    }
                    is_log = true;
                }
                // `\u0074ype` is another spelling of `type`.
                key if key.contains('\\') => return Err(unusual()),
                "\"body\"" if is_log && body.is_none() => body = Some(map.next_value()?),
                "\"body\"" => return Err(unusual()),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        body.map(LogMessage).ok_or_else(unusual)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::message::parse;

    fn shown(Members(members): Members<'_>) -> Vec<(String, String)> {
        members.iter().map(|(key, value)| (key.to_string(), value.get().to_owned())).collect()
    }

    /// The body of a `log` message, read by the slower function.
    fn longer_way(line: &str) -> Option<Vec<(String, String)>> {
        let message = parse(line).filter(|message| message.kind == "log")?;
        serde_json::from_str(message.log_body().ok()?.get()).ok().map(shown)
    }

    #[test]
    fn the_usual_form_is_read_at_once_and_all_else_left_to_the_longer_way() {
        let usual = r#" ~{"type":"log","x":[1],"body":{"textPayload":"a\n","n":1.0}} "#;
        let expected = [("textPayload", r#""a\n""#), ("n", "1.0")];
        assert_eq!(
            log_members(usual).map(shown).unwrap(),
            expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
        for other in [
            r#"~{"body":{},"type":"log"}"#,
            r#"~{"type":"hello","body":{}}"#,
            r#"~{"type":"log","body":[]}"#,
            r#"~{"type":"log","body":{},"body":{}}"#,
            r#"~{"type":"log","body":{},"type":"hello"}"#,
            r#"~{"type":"log"}"#,
            r#"~{"type":"log","body":{}"#,
            r#"~{"type":"log","body":{}}}"#,
            r#"{"type":"log","body":{}}"#,
        ] {
            assert!(log_members(other).is_none(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn both_ways_read_the_same(
            tokens in proptest::collection::vec(
                prop_oneof![
                    Just(r#""type":"log""#), Just(r#""body":"#), Just("{"), Just("}"), Just(","), Just(r#""k":1e5"#),
                    Just(r#""ä\n":"\ud800""#), Just("~"), Just(" "), Just(r#""type":7"#), Just(r#"[null,"x"]"#),
                ],
                0..9,
            ),
        ) {
            for line in [tokens.concat(), format!(r#"~{{"type":"log","body":{{{}}}}}"#, tokens.concat())] {
                if let Some(members) = log_members(&line) {
                    prop_assert_eq!(Some(shown(members)), longer_way(&line), "{}", line);
                }
            }
        }
    }
}
