//! The worker's output as lines of the log: for people, or one JSON object a line.
//!
//! Text: `2026-11-23T19:12:00.123Z [worker] what it wrote`. Every line has the time and the tag, also each line of a
//! structured record's text, so that no worker can write what looks like a line of the runner's own.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::Format;
use crate::protocol::message::{Members, text};

/// Which of the worker's pipes a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    fn tag(self) -> &'static str {
        match self {
            Self::Stdout => "worker",
            Self::Stderr => "stderr",
        }
    }
}

/// The end of a part of a long line, and the beginning of the next part.
const CONTINUES: &[u8] = b" [line continues]";
const CONTINUED: &[u8] = b"[line continued] ";

/// Renders into one growing buffer. The time is formatted once a millisecond.
#[derive(Debug)]
pub(super) struct Renderer {
    format: Format,
    millisecond: i64,
    /// What every line begins with, for stdout and stderr.
    prefixes: [Vec<u8>; 2],
    pub(super) out: Vec<u8>,
}

impl Renderer {
    pub(super) fn new(format: Format) -> Self {
        Self { format, millisecond: i64::MIN, prefixes: [Vec::new(), Vec::new()], out: Vec::new() }
    }

    /// Lines from here on happened at this time.
    pub(super) fn set_time(&mut self, now: Timestamp) {
        let millisecond = now.as_millisecond();
        if millisecond == self.millisecond {
            return;
        }
        self.millisecond = millisecond;
        for (prefix, stream) in self.prefixes.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
            let (tag, name) = (stream.tag(), stream.name());
            let text = match self.format {
                Format::Text => format!("{now:.3} [{tag}] "),
                Format::Json => format!(
                    "{{\"timestamp\":\"{now:.3}\",\"level\":\"info\",\"source\":\"worker\",\"stream\":\"{name}\","
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

    /// A line of output, as it is where it is UTF-8, with replacement characters where it is not.
    pub(super) fn line(&mut self, stream: Stream, line: &[u8]) {
        self.begin(stream);
        match self.format {
            Format::Text => self.push_lossy(line),
            Format::Json => self.push_message(line),
        }
        self.end();
    }

    /// A part of a line that is forwarded in parts.
    pub(super) fn part(&mut self, stream: Stream, bytes: &[u8], first: bool, last: bool) {
        self.begin(stream);
        match self.format {
            Format::Text => {
                self.out.extend_from_slice(if first { b"" } else { CONTINUED });
                self.push_lossy(bytes);
                self.out.extend_from_slice(if last { b"" } else { CONTINUES });
            }
            Format::Json => {
                let flags = format!("\"continued\":{},\"continues\":{},", !first, !last);
                self.out.extend_from_slice(flags.as_bytes());
                self.push_message(bytes);
            }
        }
        self.end();
    }

    /// The body of a `log` message, an object.
    pub(super) fn record(&mut self, body: &RawValue) {
        match self.format {
            Format::Json => {
                self.begin(Stream::Stdout);
                self.out.extend_from_slice(b"\"body\":");
                self.push_compact(body.get());
                self.end();
            }
            Format::Text => self.text_record(body),
        }
    }

    /// `textPayload` first, then the other keys in sorted order, each as `key: value`.
    fn text_record(&mut self, body: &RawValue) {
        let Ok(Members(mut members)) = serde_json::from_str::<Members<'_>>(body.get()) else {
            // The body was parsed as JSON before; an object it is.
            return self.line(Stream::Stdout, body.get().as_bytes());
        };
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.begin(Stream::Stdout);
        if members.is_empty() {
            self.out.extend_from_slice(b"{}");
            return self.end();
        }
        let payload = |(key, value): &(Cow<'_, str>, &RawValue)| {
            (key == "textPayload").then(|| text(value)).flatten().is_some()
        };
        let mut separator: &[u8] = b"";
        if let Some((_, value)) = members.iter().rev().find(|member| payload(member)) {
            self.push_text(&text(value).unwrap_or_default());
            separator = b"; ";
        }
        for (index, member) in members.iter().enumerate() {
            // Of several with the same name the last counts, as everywhere in JSON.
            let repeated = members.get(index + 1).is_some_and(|(next, _)| *next == member.0);
            if repeated || payload(member) {
                continue;
            }
            self.out.extend_from_slice(separator);
            separator = b"; ";
            self.push_text(&member.0);
            self.out.extend_from_slice(b": ");
            match text(member.1) {
                Some(value) => self.push_text(&value),
                None => self.push_compact(member.1.get()),
            }
        }
        self.end();
    }

    fn end(&mut self) {
        if self.format == Format::Json {
            self.out.push(b'}');
        }
        self.out.push(b'\n');
    }

    /// Text of a record: a line break in it begins a line that is tagged like all others.
    fn push_text(&mut self, text: &str) {
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        if let Some(first) = lines.next() {
            self.out.extend_from_slice(first.as_bytes());
        }
        for line in lines {
            self.out.push(b'\n');
            self.begin(Stream::Stdout);
            self.out.extend_from_slice(line.as_bytes());
        }
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
        // Writing a string to a Vec cannot fail.
        let _ = serde_json::to_writer(&mut self.out, &String::from_utf8_lossy(bytes));
    }

    /// JSON without the white space between its tokens. Numbers stay as they were written.
    fn push_compact(&mut self, json: &str) {
        if memchr::memchr2(b' ', b'\t', json.as_bytes()).is_none() {
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

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "1970-01-01T00:00:00.123Z [worker] ";

    fn renderer(format: Format) -> Renderer {
        let mut renderer = Renderer::new(format);
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
            (r#"{"a":1,"a":2}"#, "a: 2"),
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
    fn a_structured_record_stays_structured_in_json() {
        let line = record(Format::Json, r#"{"textPayload":"a\nb","n": 1.0}"#);
        let expected = r#"{"timestamp":"1970-01-01T00:00:00.123Z","level":"info","source":"worker","stream":"stdout","body":{"textPayload":"a\nb","n":1.0}}"#;
        assert_eq!(line, format!("{expected}\n"));
    }

    #[test]
    fn output_is_lossless_where_it_is_utf8() {
        let mut text = renderer(Format::Text);
        text.line(Stream::Stderr, "grüße \u{1b}[1m😀\r".as_bytes());
        text.line(Stream::Stdout, b"a\xffb");
        let expected = "1970-01-01T00:00:00.123Z [stderr] grüße \u{1b}[1m😀\r\n1970-01-01T00:00:00.123Z [worker] a\u{fffd}b\n";
        assert_eq!(String::from_utf8(text.out).unwrap(), expected);
        let mut json = renderer(Format::Json);
        json.line(Stream::Stdout, b"a\"\x01\xff");
        let value: serde_json::Value = serde_json::from_slice(&json.out).unwrap();
        assert_eq!(value["message"], "a\"\u{1}\u{fffd}");
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
