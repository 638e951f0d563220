//! JSON as it came: the members of an object, borrowed from the line, their values unparsed. What a flood of `log`
//! messages is read with.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// An object with more members than this is not looked into: each costs more memory than its text.
const MOST_MEMBERS: usize = 10_000;

/// A JSON object's members in the order in which they came. A name may occur twice: the last counts.
#[derive(Debug)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

/// The object of a line that may be a message: trimmed of white space it begins with `~{` and ends with `}`.
pub(super) fn object(line: &str) -> Option<&str> {
    let object = line.trim_ascii().strip_prefix('~')?;
    (object.starts_with('{') && object.ends_with('}')).then_some(object)
}

/// The members of the body of a `log` message in its usual form, `type` before `body`, each once. Of any other line,
/// `None`: [`parse`](super::message::parse) says what it is. It gives the same body, but takes longer, since it must
/// keep the members of any type.
pub fn log_members(line: &str) -> Option<Members<'_>> {
    let LogMessage(members) = serde_json::from_str(object(line)?).ok()?;
    Some(members)
}

/// A JSON string's text, borrowed where it has no escapes. `None` where it is no string, or one that is not Unicode
/// (`"\ud800"`).
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(raw.get()).ok().map(Cow::Owned)
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
        while let Some(Text(key)) = map.next_key()? {
            if members.len() >= MOST_MEMBERS {
                return Err(A::Error::custom("too many members"));
            }
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
        while let Some(Text(key)) = map.next_key()? {
            match &*key {
                "type" => {
                    let Text(kind) = map.next_value()?;
                    if is_log || kind != "log" {
                        return Err(unusual());
                    }
                    is_log = true;
                }
                "body" if is_log && body.is_none() => body = Some(map.next_value()?),
                "body" => return Err(unusual()),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        body.map(LogMessage).ok_or_else(unusual)
    }
}

/// A string, borrowed where it has no escapes (serde's own `Cow` always copies).
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
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

    /// The body of a `log` message by the longer way.
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
