//! Renders the worker's output as lines of the log: human-readable, or one JSON object a line.
//!
//! Text: `2026-11-23T19:12:00.123Z [worker] what it wrote`. Every line has the time and the tag, also each line of a
//! structured record's text, so that no worker can imitate a line of the runner's own.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::{Format, Identity};
use crate::protocol::json::{Members, is_long, text, text_in_pieces};

/// The worker's pipe from which a line came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// May contain messages.
    Stdout,
    /// Output only.
    Stderr,
}

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::Stdout => "worker",
            Self::Stderr => "stderr",
        }
    }
}

/// A text with more lines than this is rendered as one line, with its line breaks as `\n`: a tag on each line would
/// multiply its size.
const MOST_LINES: usize = 1000;

/// Marks the end of a part of a long line, and the beginning of the next part.
pub(super) const CONTINUES: &[u8] = b" [line continues]";
pub(super) const CONTINUED: &[u8] = b"[line continued] ";

/// Renders into one growing buffer. The time is formatted once a millisecond.
#[derive(Debug)]
pub struct Renderer {
    format: Format,
    millisecond: i64,
    /// The worker's identity, for the JSON prefixes, once it is known.
    identity: Arc<OnceLock<Identity>>,
    identified: bool,
    /// The beginning of every line, for stdout and stderr.
    prefixes: [Vec<u8>; 2],
    /// The rendered lines.
    pub out: Vec<u8>,
}

impl Renderer {
    pub fn new(format: Format, identity: Arc<OnceLock<Identity>>) -> Self {
        let prefixes = [Vec::new(), Vec::new()];
        Self { format, millisecond: i64::MIN, identity, identified: false, prefixes, out: Vec::new() }
    }

    /// Sets the time of the following lines.
    pub fn set_time(&mut self, now: Timestamp) {
        let millisecond = now.as_millisecond();
        let identity = self.identity.get();
        if millisecond == self.millisecond && identity.is_some() == self.identified {
            return;
        }
        self.identified = identity.is_some();
        let whose = identity.map_or("", Identity::json);
        self.millisecond = millisecond;
        for (prefix, stream) in self.prefixes.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
            let (tag, name) = (stream.tag(), stream.name());
            let text = match self.format {
                Format::Text => format!("{now:.3} [{tag}] "),
                Format::Prioritised | Format::Journald => format!("<6>[{tag}] "),
                Format::Json => format!(
                    "{{\"timestamp\":\"{now:.3}\",\"level\":\"info\",{whose}\"source\":\"worker\",\"stream\":\"{name}\","
                ),
            };
            *prefix = text.into_bytes();
        }
    }

    fn begin(&mut self, stream: Stream) {
        let [stdout, stderr] = &self.prefixes;
        self.out.extend_from_slice(match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        });
    }

    /// Renders a line of output unchanged.
    #[inline]
    pub fn line(&mut self, stream: Stream, line: &str) {
        self.begin(stream);
        match self.format {
            Format::Json => self.push_message(line.as_bytes()),
            _ => self.out.extend_from_slice(line.as_bytes()),
        }
        self.end();
    }

    /// Renders a line of output that is not UTF-8, with replacement characters.
    pub fn bytes(&mut self, stream: Stream, line: &[u8]) {
        self.line(stream, &String::from_utf8_lossy(line));
    }

    /// Renders a part of a line that is forwarded in parts.
    pub fn part(&mut self, stream: Stream, bytes: &[u8], first: bool, last: bool) {
        self.begin(stream);
        if self.format == Format::Json {
            let flags = format!("\"continued\":{},\"continues\":{},", !first, !last);
            self.out.extend_from_slice(flags.as_bytes());
            self.push_message(bytes);
        } else {
            self.out.extend_from_slice(if first { b"" } else { CONTINUED });
            self.push_lossy(bytes);
            self.out.extend_from_slice(if last { b"" } else { CONTINUES });
        }
        self.end();
    }

    /// Returns true if records are rendered from their [`members`](Self::members). JSON passes them through unchanged.
    pub(super) fn takes_members(&self) -> bool {
        self.format != Format::Json
    }

    /// Renders the body of a `log` message, which is an object.
    pub fn record(&mut self, body: &RawValue) {
        if self.format == Format::Json {
            self.begin(Stream::Stdout);
            self.out.extend_from_slice(b"\"body\":");
            self.out.extend_from_slice(body.get().as_bytes());
            return self.end();
        }
        match serde_json::from_str(body.get()) {
            Ok(mut members) => self.members(&mut members),
            // A key is not Unicode.
            Err(_) => self.line(Stream::Stdout, body.get()),
        }
    }

    /// Renders the body as text: `textPayload` first, then the other keys in sorted order, each as `key: value`.
    pub fn members(&mut self, Members(members): &mut Members<'_>) {
        self.begin(Stream::Stdout);
        if members.is_empty() {
            self.out.extend_from_slice(b"{}");
            return self.end();
        }
        sort(members);
        let text_payload = members.iter().position(|(key, _)| key == "textPayload");
        // If it is not a string, `textPayload` is treated like any other member.
        let payload =
            text_payload.filter(|index| members.get(*index).is_some_and(|(_, raw)| self.push_string(raw)));
        let mut separator: &[u8] = if payload.is_some() { b"; " } else { b"" };
        for (index, (key, value)) in members.iter().enumerate() {
            if payload == Some(index) {
                continue;
            }
            self.out.extend_from_slice(separator);
            separator = b"; ";
            self.push_value(key);
            self.out.extend_from_slice(b": ");
            if !self.push_string(value) {
                self.push_compact(value.get());
            }
        }
        self.end();
    }

    fn end(&mut self) {
        self.out.extend_from_slice(match self.format {
            Format::Json => b"}\n",
            _ => b"\n",
        });
    }

    /// Renders a string's text. Returns false, and renders nothing, if it is not a string or not Unicode.
    fn push_string(&mut self, raw: &RawValue) -> bool {
        if !is_long(raw) {
            let Some(text) = text(raw) else { return false };
            self.push_value(&text);
            return true;
        }
        let (from, lines) = (self.out.len(), may_have_many_lines(raw.get()));
        // A trailing line break does not begin a line: it is held until more text follows.
        let mut held = "";
        let is_text = text_in_pieces(raw, |piece| {
            let (text, last) = piece.strip_suffix('\n').map_or((piece, ""), |text| (text, "\n"));
            for text in [held, text] {
                if lines {
                    self.out.extend_from_slice(text.replace('\n', "\\n").as_bytes());
                } else {
                    self.push_lines(text);
                }
            }
            held = last;
        });
        if !is_text {
            self.out.truncate(from);
        }
        is_text
    }

    #[expect(clippy::ptr_arg, reason = "that it is borrowed says that it had no escapes")]
    fn push_value(&mut self, text: &Cow<'_, str>) {
        match text {
            // The string had no escapes, so it contains no line break.
            Cow::Borrowed(text) => self.out.extend_from_slice(text.as_bytes()),
            Cow::Owned(text) => self.push_text(text),
        }
    }

    /// Renders the text of a record. Each line break begins a line with its own tag, so that a worker's text is still
    /// read line by line, and none of its lines looks like the runner's own. A trailing line break is dropped.
    fn push_text(&mut self, text: &str) {
        let text = text.strip_suffix('\n').unwrap_or(text);
        if memchr::memchr_iter(b'\n', text.as_bytes()).nth(MOST_LINES).is_some() {
            return self.out.extend_from_slice(text.replace('\n', "\\n").as_bytes());
        }
        self.push_lines(text);
    }

    fn push_lines(&mut self, mut rest: &str) {
        while let Some(end) = memchr::memchr(b'\n', rest.as_bytes()) {
            let (line, more) = rest.split_at(end + 1);
            self.out.extend_from_slice(line.as_bytes());
            self.begin(Stream::Stdout);
            rest = more;
        }
        self.out.extend_from_slice(rest.as_bytes());
    }

    fn push_lossy(&mut self, bytes: &[u8]) {
        if std::str::from_utf8(bytes).is_ok() {
            self.out.extend_from_slice(bytes);
        } else {
            self.out.extend_from_slice(String::from_utf8_lossy(bytes).as_bytes());
        }
    }

    fn push_message(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(b"\"message\":");
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push_json_string(text),
            Err(_) => self.push_json_string(&String::from_utf8_lossy(bytes)),
        }
    }

    fn push_json_string(&mut self, text: &str) {
        // Without a branch for each byte, so that the loop can be vectorized.
        #[expect(clippy::needless_bitwise_bool, reason = "without branches it looks at many bytes at once")]
        let is_special = |byte: u8| (byte < b' ') | (byte == b'"') | (byte == b'\\');
        if text.bytes().fold(false, |any, byte| any | is_special(byte)) {
            // Writing a string to a Vec cannot fail.
            let _ = serde_json::to_writer(&mut self.out, text);
            return;
        }
        self.out.push(b'"');
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'"');
    }

    /// Renders JSON without the white space between its tokens. Numbers are unchanged.
    fn push_compact(&mut self, json: &str) {
        let has_parts = json.starts_with(['{', '[', '"']);
        if !has_parts || memchr::memchr3(b' ', b'\t', b'\r', json.as_bytes()).is_none() {
            self.out.extend_from_slice(json.as_bytes());
            return;
        }
        let (mut in_string, mut escaped) = (false, false);
        for byte in json.bytes() {
            if in_string || !byte.is_ascii_whitespace() {
                self.out.push(byte);
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = in_string,
                b'"' => in_string = !in_string,
                _ => {}
            }
        }
    }
}

/// Returns true if a JSON string may have more than [`MOST_LINES`] line breaks. (It also counts `\\\\n`, which is not a
/// line break.)
fn may_have_many_lines(json: &str) -> bool {
    let breaks = memchr::memmem::find_iter(json.as_bytes(), "\\n")
        .chain(memchr::memmem::find_iter(json.as_bytes(), "\\u000"));
    breaks.take(MOST_LINES + 1).count() > MOST_LINES
}

/// Sorts by key. Of several members with the same key the last one is kept, as usual in JSON.
fn sort(members: &mut Vec<(Cow<'_, str>, &RawValue)>) {
    // Most keys differ in their first byte, which is compared without a call.
    members.sort_by(|(one, _), (other, _)| {
        let (one, other) = (one.as_bytes(), other.as_bytes());
        one.first().cmp(&other.first()).then_with(|| one.cmp(other))
    });
    members.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "1970-01-01T00:00:00.123Z [worker] ";

    fn renderer(format: Format) -> Renderer {
        let mut renderer = Renderer::new(format, Arc::default());
        renderer.set_time(Timestamp::from_millisecond(123).unwrap());
        renderer
    }

    fn record(format: Format, body: &str) -> String {
        let mut renderer = renderer(format);
        renderer.record(serde_json::from_str(body).unwrap());
        String::from_utf8(renderer.out).unwrap()
    }

    #[test]
    fn a_record_is_its_text_and_then_its_keys_in_order() {
        for (body, expected) in [
            (r#"{"textPayload":"uhoh","level":"bad","n":[1,2]}"#, "uhoh; level: bad; n: [1,2]"),
            (r#"{"z":1, "a": {"b" : "c d"}, "m":null}"#, r#"a: {"b":"c d"}; m: null; z: 1"#),
            ("{}", "{}"),
            (r#"{"textPayload":7,"a":true}"#, "a: true; textPayload: 7"),
            (r#"{"n":12345678901234567890123,"f":1.0}"#, "f: 1.0; n: 12345678901234567890123"),
            (r#"{"a":1,"b":0,"a":2,"a":3}"#, "a: 3; b: 0"),
            (r#"{"textPayload":"x","textPayload":1}"#, "textPayload: 1"),
            (r#"{"textPayload":"","a":{}}"#, "; a: {}"),
            (r#"{"a":"\ud800 x"}"#, r#"a: "\ud800 x""#),
            (r#"{"\ud800":1}"#, r#"{"\ud800":1}"#),
            ("{\"a\":[1,\r\t2]}", "a: [1,2]"),
            (r#"{"q":"say \"hi\"","e":["\\\" x"]}"#, r#"e: ["\\\" x"]; q: say "hi""#),
        ] {
            assert_eq!(record(Format::Text, body), format!("{PREFIX}{expected}\n"), "{body}");
        }
    }

    #[test]
    fn a_line_break_in_a_record_cannot_forge_a_line() {
        let text = record(
            Format::Text,
            r#"{"textPayload":"one\n2026-11-23T00:00:00.000Z INFO  forged\n","a":"x\ny"}"#,
        );
        assert!(text.lines().all(|line| line.starts_with(PREFIX)), "{text}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn a_record_of_very_many_lines_or_members_does_not_grow() {
        let text = record(Format::Text, &format!(r#"{{"textPayload":"{}"}}"#, "\\n".repeat(1_000_000)));
        assert!(text.len() <= 2 * 1_000_000 + 100 && text.lines().count() == 1, "{}", text.len());
        let members: Vec<String> = (0..20_000).map(|key| format!(r#""{key}":1"#)).collect();
        let body = format!("{{{}}}", members.join(","));
        assert_eq!(record(Format::Text, &body), format!("{PREFIX}{body}\n"));
    }

    #[test]
    fn a_structured_record_stays_structured_in_json() {
        let line = record(Format::Json, r#"{"textPayload":"a\nb","n": 1.0}"#);
        let expected = r#"{"timestamp":"1970-01-01T00:00:00.123Z","level":"info","source":"worker","stream":"stdout","body":{"textPayload":"a\nb","n": 1.0}}"#;
        assert_eq!(line, format!("{expected}\n"));
    }

    #[test]
    fn output_is_lossless_where_it_is_utf8() {
        let mut text = renderer(Format::Text);
        text.line(Stream::Stderr, "grüße \u{1b}[1m😀\r");
        text.bytes(Stream::Stdout, b"a\xffb");
        let expected = "1970-01-01T00:00:00.123Z [stderr] grüße \u{1b}[1m😀\r\n1970-01-01T00:00:00.123Z [worker] a\u{fffd}b\n";
        assert_eq!(String::from_utf8(text.out).unwrap(), expected);
        let mut json = renderer(Format::Json);
        json.bytes(Stream::Stdout, b"a\"\x01\xff");
        let value: serde_json::Value = serde_json::from_slice(&json.out).unwrap();
        assert_eq!(value["message"], "a\"\u{1}\u{fffd}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_survives_json(text in "\\PC*|[ -~\\x00-\\x1f\\x7f]*") {
            let mut json = renderer(Format::Json);
            json.line(Stream::Stdout, &text);
            let value: serde_json::Value = serde_json::from_slice(&json.out).unwrap();
            proptest::prop_assert_eq!(&value["message"], &text);
        }
    }

    #[test]
    fn the_parts_of_a_long_line_are_marked() {
        let mut text = renderer(Format::Text);
        text.part(Stream::Stdout, b"a", true, false);
        text.part(Stream::Stdout, b"b", false, false);
        text.part(Stream::Stdout, b"c", false, true);
        let expected = format!(
            "{PREFIX}a [line continues]\n{PREFIX}[line continued] b [line continues]\n{PREFIX}[line continued] c\n"
        );
        assert_eq!(String::from_utf8(text.out).unwrap(), expected);
        let mut json = renderer(Format::Json);
        json.part(Stream::Stdout, b"a", true, false);
        let value: serde_json::Value = serde_json::from_slice(&json.out).unwrap();
        assert_eq!((&value["continued"], &value["continues"]), (&false.into(), &true.into()));
    }
}
