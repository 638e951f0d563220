//! The messages of the protocol, and their faults.
//!
//! A message is one line: `~`, one JSON object with a string `type`, a newline. A line in any other form is the
//! worker's output ([`parse`] returns `None`); a message in which a field has the wrong type is a [`Malformed`].

use std::borrow::Cow;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::json;
use serde_json::value::RawValue;
use thiserror::Error;

use super::capabilities::{Capabilities, Capability};
use super::json::{object, text, text_up_to};

pub use super::to_worker::ToWorker;

/// A message from the worker to the runner that requires an action. (`log` messages are handled by the output thread.)
#[derive(Debug, Clone, PartialEq)]
pub enum FromWorker {
    /// The worker supports the protocol.
    Hello {
        /// The worker's capabilities, without unknown names.
        capabilities: Capabilities,
    },
    /// The user whom the display manager should log in at the next boot, or the reason for a refusal.
    Autologin(Result<AutologinRequest, AutologinRefused>),
    /// An error that the pool's owners should know about.
    ErrorReport(ErrorReport),
    /// The worker is about to exit, and asks for a reboot of its host afterwards.
    Reboot {
        /// The reason, if the worker gives one.
        reason: Option<String>,
    },
    /// The worker asks for the shutdown of its host.
    Shutdown,
}

/// Maximum length of the user in an `autologin`, in bytes. No system has longer user names.
const LONGEST_USER: usize = 256;
/// Maximum length of the desktop session in an `autologin`, in bytes.
const LONGEST_SESSION: usize = 256;
/// The part of a reboot's reason that is shown, in bytes.
pub const LONGEST_REASON: usize = 1024;
/// The part of an error report's kind that is shown, in bytes.
pub const LONGEST_KIND: usize = 256;
/// The part of an error report's title that is shown, in bytes: more than worker-manager accepts, so that the
/// truncation there is marked.
pub const LONGEST_TITLE: usize = 1024;
/// The part of an error report's description that is shown, in bytes. worker-manager accepts 10,240 characters of up to
/// 4 bytes.
pub const LONGEST_DESCRIPTION: usize = 48 * 1024;
/// The number of additional bytes that are kept of a text, so that a secret that extends beyond the shown part can
/// still be masked as a whole.
const SPARE: usize = 8 * 1024;
/// Maximum size of `extra`, in bytes. A larger one is dropped, because JSON cannot be truncated.
const LONGEST_EXTRA: usize = 32 * 1024;
/// The number of elements of a hello's `capabilities` that are read. A runner knows fewer than ten.
const MOST_CAPABILITIES: usize = 256;
/// Maximum length of a known type's name, in bytes as written.
const LONGEST_TYPE: usize = 256;
/// The replacement for a type that is too long to be shown.
const LONG_TYPE: &str = "(a very long string)";

/// The fields of an `autologin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutologinRequest {
    /// The user; `None`: nobody is logged in.
    pub user: Option<String>,
    /// The desktop session; `None`: the configured one.
    pub session: Option<String>,
}

/// The reason for refusing an `autologin` before it is processed. The worker receives it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AutologinRefused {
    /// The message is malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The capability was not in the runner's `welcome`.
    #[error("autologin was not offered: this host has no display manager that start-worker can set up")]
    NotOffered(AutologinRequest),
    /// The capability was not in the worker's `hello`.
    #[error("autologin: the worker's hello has not announced it")]
    NotAnnounced(AutologinRequest),
}

impl AutologinRefused {
    /// The requested user, if the message could be read.
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::Malformed(_) => None,
            Self::NotOffered(request) | Self::NotAnnounced(request) => request.user.as_deref(),
        }
    }
}

/// The fields of an `error-report`, truncated to slightly more than is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorReport {
    /// A short word for the kind of error.
    pub kind: String,
    /// A single line.
    pub title: String,
    /// The full text.
    pub description: String,
    /// Further data: the unparsed JSON text of an object. (Parsed values would take thirty times the memory.) If the
    /// object was too large, this is an object that says so.
    pub extra: String,
}

/// A message of a known type with an invalid field.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{message}: {field} is {found}, expected {expected}")]
pub struct Malformed {
    pub message: &'static str,
    pub field: &'static str,
    /// A description of the actual value; never the value itself.
    pub found: &'static str,
    /// A description of the expected value.
    pub expected: &'static str,
}

/// The members with a meaning in some message, besides `type`. Others are not kept.
const FIELDS: [&str; 15] = [
    "capabilities",
    "body",
    "kind",
    "title",
    "description",
    "extra",
    "reason",
    "user",
    "session",
    "finish-tasks",
    "client-id",
    "access-token",
    "certificate",
    "ok",
    "error",
];

/// The JSON object of a message line with its relevant members unparsed. It takes the same memory whatever the line
/// contains.
#[derive(Debug)]
pub struct RawMessage<'a> {
    /// The value of `type`.
    pub kind: Cow<'a, str>,
    /// The values of [`FIELDS`]; of several members with the same name, the last one.
    members: [Option<&'a RawValue>; FIELDS.len()],
}

/// Parses a line that is a message: without surrounding white space, the line begins with `~{`, ends with `}`, is valid
/// JSON and has a string `type`. Anything else is output.
pub fn parse(line: &str) -> Option<RawMessage<'_>> {
    serde_json::from_str(object(line)?).ok()
}

impl<'de> Deserialize<'de> for RawMessage<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MessageVisitor)
    }
}

struct MessageVisitor;

impl<'de> Visitor<'de> for MessageVisitor {
    type Value = RawMessage<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut kind = None;
        let mut members = [None; FIELDS.len()];
        while let Some(key) = map.next_key::<&RawValue>()? {
            let name = if key.get().len() <= LONGEST_TYPE { text(key) } else { None };
            let index = FIELDS.iter().position(|field| name.as_deref() == Some(*field));
            if name.as_deref() == Some("type") {
                let value: &RawValue = map.next_value()?;
                kind = Some(type_name(value).ok_or_else(|| A::Error::custom("type is no string"))?);
            } else if let Some(member) = index.and_then(|index| members.get_mut(index)) {
                *member = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        let kind = kind.ok_or_else(|| A::Error::custom("no type"))?;
        Ok(RawMessage { kind, members })
    }
}

fn type_name(value: &RawValue) -> Option<Cow<'_, str>> {
    if value.get().len() <= LONGEST_TYPE {
        return text(value);
    }
    value.get().starts_with('"').then_some(Cow::Borrowed(LONG_TYPE))
}

/// Reads at most [`MOST_CAPABILITIES`] elements of an array of strings.
struct CapabilitiesSeed<'a> {
    found: &'a mut Capabilities,
    only_strings: &'a mut bool,
}

impl<'de> DeserializeSeed<'de> for CapabilitiesSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for CapabilitiesSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let mut count = 0;
        while let Some(element) = sequence.next_element::<&RawValue>()? {
            if count == MOST_CAPABILITIES {
                return Err(A::Error::custom("too many"));
            }
            count += 1;
            *self.only_strings &= element.get().starts_with('"');
            let name = if element.get().len() <= LONGEST_TYPE { text(element) } else { None };
            if let Some(capability) = name.as_deref().and_then(Capability::named) {
                *self.found = self.found.with(capability);
            }
        }
        Ok(())
    }
}

impl<'a> RawMessage<'a> {
    /// The unparsed value of a member in [`FIELDS`]; of several with the same name, the last one.
    pub fn member(&self, name: &str) -> Option<&'a RawValue> {
        let index = FIELDS.iter().position(|field| *field == name)?;
        self.members.get(index).copied().flatten()
    }

    /// Reads a `hello`: its capabilities, without unknown names. Fails if they are missing or malformed.
    pub fn hello(&self) -> Result<Capabilities, Malformed> {
        let wrong = |found| Malformed {
            message: "hello",
            field: "capabilities",
            found,
            expected: "an array of strings",
        };
        let raw = self.member("capabilities").ok_or_else(|| wrong("missing"))?;
        if !raw.get().starts_with('[') {
            return Err(wrong(what_is(raw)));
        }
        let (mut found, mut only_strings) = (Capabilities::NONE, true);
        let seed = CapabilitiesSeed { found: &mut found, only_strings: &mut only_strings };
        // The value is valid JSON, so this fails only if there are too many elements; the ones read so far count.
        let _ = seed.deserialize(&mut serde_json::Deserializer::from_str(raw.get()));
        if only_strings { Ok(found) } else { Err(wrong(what_is(raw))) }
    }

    /// Reads an `error-report`.
    pub fn error_report(&self) -> Result<ErrorReport, Malformed> {
        let extra = match self.member("extra") {
            None => "{}".to_owned(),
            Some(raw) if raw.get().starts_with('{') && raw.get().len() <= LONGEST_EXTRA => {
                raw.get().to_owned()
            }
            Some(raw) if raw.get().starts_with('{') => {
                json!({"startWorker": format!("{} bytes of extra are left out", raw.get().len())}).to_string()
            }
            Some(raw) => return Err(wrong("error-report", "extra", Some(raw), "an object")),
        };
        Ok(ErrorReport {
            kind: self.string("kind", LONGEST_KIND)?,
            title: self.string("title", LONGEST_TITLE)?,
            description: self.string("description", LONGEST_DESCRIPTION)?,
            extra,
        })
    }

    /// Reads a `reboot`: its truncated reason, if it has one.
    pub fn reboot(&self) -> Result<Option<String>, Malformed> {
        let Some(raw) = self.member("reason").filter(|raw| raw.get() != "null") else { return Ok(None) };
        let reason = kept(raw, LONGEST_REASON);
        reason.map(Some).ok_or_else(|| wrong("reboot", "reason", Some(raw), "a string"))
    }

    /// Reads an `autologin`. The user is mandatory, because its absence may be a mistake while null is a valid request.
    pub fn autologin(&self) -> Result<AutologinRequest, Malformed> {
        const NAME: &str = "autologin";
        let raw = self.member("user");
        let user = match raw {
            Some(raw) if raw.get() == "null" => None,
            _ => Some(name(
                NAME,
                "user",
                raw,
                (LONGEST_USER, "a user's name of at most 256 bytes"),
                "a string or null",
            )?),
        };
        let session = match self.member("session").filter(|raw| raw.get() != "null") {
            None => None,
            raw => Some(name(
                NAME,
                "session",
                raw,
                (LONGEST_SESSION, "a session's name of at most 256 bytes"),
                "a string",
            )?),
        };
        Ok(AutologinRequest { user, session })
    }

    /// Reads a `log`: its body, an unparsed object.
    pub fn log_body(&self) -> Result<&'a RawValue, Malformed> {
        let raw = self.member("body");
        raw.filter(|raw| raw.get().starts_with('{')).ok_or(Malformed {
            message: "log",
            field: "body",
            found: raw.map_or("missing", what_is),
            expected: "an object",
        })
    }

    fn string(&self, field: &'static str, most: usize) -> Result<String, Malformed> {
        let raw = self.member(field);
        let text = raw.and_then(|raw| kept(raw, most));
        text.ok_or_else(|| wrong("error-report", field, raw, "a string"))
    }
}

/// A string's text, truncated to the kept length for a text of which `most` bytes are shown.
fn kept(raw: &RawValue, most: usize) -> Option<String> {
    text_up_to(raw, most + SPARE).map(|(text, _)| text.into_owned())
}

/// Reads a string that would be useless if it were truncated. `longest`: its maximum length, in bytes and as text.
fn name(
    message: &'static str,
    field: &'static str,
    raw: Option<&RawValue>,
    (longest, expected_length): (usize, &'static str),
    expected: &'static str,
) -> Result<String, Malformed> {
    let text = raw.and_then(|raw| text_up_to(raw, longest + 1));
    let (text, whole) = text.ok_or_else(|| wrong(message, field, raw, expected))?;
    if !whole || text.len() > longest {
        return Err(Malformed { message, field, found: "a very long string", expected: expected_length });
    }
    Ok(text.into_owned())
}

fn wrong(
    message: &'static str,
    field: &'static str,
    raw: Option<&RawValue>,
    expected: &'static str,
) -> Malformed {
    let found = match raw.map_or("missing", what_is) {
        // Nested too deeply, a number too large, or half a surrogate pair.
        "an object" if expected == "an object" => "an object that cannot be read",
        "a string" if expected.starts_with("a string") => "a string that cannot be read",
        found => found,
    };
    Malformed { message, field, found, expected }
}

/// Describes the type of a value.
fn what_is(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(line: &str) -> RawMessage<'_> {
        parse(line).unwrap()
    }

    #[test]
    fn messages_to_the_worker_are_as_workers_in_the_field_read_them() {
        let capabilities = Capabilities::NONE.with(Capability::Log).with(Capability::ErrorReport);
        let welcome = ToWorker::Welcome { capabilities }.encode();
        let expected = b"~{\"capabilities\":[\"error-report\",\"log\"],\"type\":\"welcome\"}\n";
        assert_eq!(welcome, expected);
        let drain = ToWorker::GracefulTermination { finish_tasks: true }.encode();
        assert_eq!(drain, b"~{\"finish-tasks\":true,\"type\":\"graceful-termination\"}\n");
        let credentials = ToWorker::NewCredentials {
            client_id: "c".into(),
            access_token: "t".into(),
            certificate: Some("{\"a\":1}".into()),
        };
        let expected: &[u8] =
            br#"~{"access-token":"t","certificate":"{\"a\":1}","client-id":"c","type":"new-credentials"}"#;
        assert_eq!(credentials.encode().strip_suffix(b"\n").unwrap(), expected);
    }

    #[test]
    fn a_line_is_a_message_only_if_all_is_right() {
        for line in [r#"~{"type":"x"}"#, " ~{\"type\":\"x\",\"a\":[1]} \r", "~{\"a\":1,\"type\":\"x\"}"] {
            assert_eq!(parsed(line).kind, "x", "{line}");
        }
        for line in [
            "",
            "~",
            "~{",
            "~{}",
            "{\"type\":\"x\"}",
            "~ {\"type\":\"x\"}",
            "~{\"type\":1}",
            "~{\"type\":null}",
            "~{\"type\":\"x\"",
            "~{\"type\":\"x\"}}",
            "x~{\"type\":\"x\"}",
            "~[1]",
            "~{\"type\":\"x\",}",
            "~{\"type\":\"\\ud800\"}",
        ] {
            assert!(parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn each_malformed_field_is_named_with_what_was_expected() {
        let hello = |line| parsed(line).hello().unwrap_err().to_string();
        assert_eq!(
            hello(r#"~{"type":"hello","capabilities":"x"}"#),
            "hello: capabilities is a string, expected an array of strings"
        );
        assert_eq!(
            hello(r#"~{"type":"hello","capabilities":[1]}"#),
            "hello: capabilities is an array, expected an array of strings"
        );
        assert_eq!(
            hello(r#"~{"type":"hello"}"#),
            "hello: capabilities is missing, expected an array of strings"
        );
        let log = |line| parsed(line).log_body().unwrap_err().to_string();
        assert_eq!(log(r#"~{"type":"log","body":null}"#), "log: body is null, expected an object");
        assert_eq!(log(r#"~{"type":"log","body":7}"#), "log: body is a number, expected an object");
        assert_eq!(log(r#"~{"type":"log"}"#), "log: body is missing, expected an object");
        let report = |line: &str| parsed(line).error_report().unwrap_err().to_string();
        assert_eq!(
            report(r#"~{"type":"error-report","kind":null,"title":"t","description":"d"}"#),
            "error-report: kind is null, expected a string"
        );
        assert_eq!(
            report(r#"~{"type":"error-report","kind":"k","title":"t"}"#),
            "error-report: description is missing, expected a string"
        );
        assert_eq!(
            report(r#"~{"type":"error-report","kind":"k","title":"t","description":"d","extra":true}"#),
            "error-report: extra is a boolean, expected an object"
        );
        assert_eq!(
            report(r#"~{"type":"error-report","kind":"\ud800","title":"t","description":"d"}"#),
            "error-report: kind is a string that cannot be read, expected a string"
        );
    }

    #[test]
    fn an_error_report_without_extra_has_an_empty_one() {
        let report = parsed(r#"~{"type":"error-report","kind":"k","title":"t","description":"a\nb"}"#);
        let report = report.error_report().unwrap();
        assert_eq!((report.description.as_str(), report.extra.as_str()), ("a\nb", "{}"));
    }

    #[test]
    fn an_error_reports_extra_is_kept_as_it_came_however_deep() {
        let deep = format!(r#"{{"x": {}{}}}"#, "[".repeat(200), "]".repeat(200));
        let line =
            format!(r#"~{{"type":"error-report","kind":"k","title":"t","description":"d","extra":{deep}}}"#);
        assert_eq!(parsed(&line).error_report().unwrap().extra, deep);
    }

    #[test]
    fn a_reboot_may_have_a_reason() {
        let reboot = |line: &str| parsed(line).reboot();
        assert_eq!(reboot(r#"~{"type":"reboot","reason":"next user"}"#), Ok(Some("next user".to_owned())));
        assert_eq!(reboot(r#"~{"type":"reboot"}"#), Ok(None));
        let error = reboot(r#"~{"type":"reboot","reason":7}"#).unwrap_err().to_string();
        assert_eq!(error, "reboot: reason is a number, expected a string");
    }

    #[test]
    fn an_autologin_says_whom_or_that_nobody_is_meant() {
        let autologin = |line: &str| parsed(line).autologin().map_err(|malformed| malformed.to_string());
        let request = |user: Option<&str>, session: Option<&str>| {
            Ok(AutologinRequest { user: user.map(str::to_owned), session: session.map(str::to_owned) })
        };
        assert_eq!(autologin(r#"~{"type":"autologin","user":"task_1"}"#), request(Some("task_1"), None));
        assert_eq!(autologin(r#"~{"type":"autologin","user":null,"session":null}"#), request(None, None));
        assert_eq!(
            autologin(r#"~{"type":"autologin","user":"a","session":"ubuntu"}"#),
            request(Some("a"), Some("ubuntu"))
        );
        for (line, error) in [
            (r#"~{"type":"autologin"}"#, "user is missing, expected a string or null"),
            (r#"~{"type":"autologin","user":7}"#, "user is a number, expected a string or null"),
            (r#"~{"type":"autologin","user":["a"]}"#, "user is an array, expected a string or null"),
            (
                r#"~{"type":"autologin","user":"\ud800"}"#,
                "user is a string that cannot be read, expected a string or null",
            ),
            (r#"~{"type":"autologin","user":"a","session":{}}"#, "session is an object, expected a string"),
        ] {
            assert_eq!(autologin(line), Err(format!("autologin: {error}")), "{line}");
        }
    }

    #[test]
    fn a_user_whom_no_system_could_have_is_malformed_and_not_repeated() {
        let named = |length: usize| format!(r#"~{{"type":"autologin","user":"{}"}}"#, "a".repeat(length));
        assert!(parsed(&named(256)).autologin().is_ok());
        let malformed = parsed(&named(257)).autologin().unwrap_err();
        let expected = "autologin: user is a very long string, expected a user's name of at most 256 bytes";
        assert_eq!(malformed.to_string(), expected);
    }

    #[test]
    fn the_answer_to_an_autologin_says_why_it_was_not_done() {
        let done = ToWorker::AutologinResult { user: Some("task_1".into()), error: None }.encode();
        assert_eq!(done, b"~{\"ok\":true,\"type\":\"autologin-result\",\"user\":\"task_1\"}\n");
        let failed = ToWorker::AutologinResult { user: None, error: Some("disk full".into()) }.encode();
        let expected: &[u8] =
            b"~{\"error\":\"disk full\",\"ok\":false,\"type\":\"autologin-result\",\"user\":null}\n";
        assert_eq!(failed, expected);
    }

    #[test]
    fn unknown_capabilities_are_left_out() {
        let hello = parsed(r#"~{"type":"hello","capabilities":["log","teleport"]}"#).hello();
        assert_eq!(hello, Ok(Capabilities::NONE.with(Capability::Log)));
    }

    #[test]
    fn of_very_many_capabilities_the_first_ones_are_looked_at() {
        let hello = |before: usize| {
            let line = format!(r#"~{{"type":"hello","capabilities":[{}"log"]}}"#, r#""x","#.repeat(before));
            parsed(&line).hello().unwrap()
        };
        assert_eq!(hello(MOST_CAPABILITIES - 1), Capabilities::NONE.with(Capability::Log));
        assert_eq!(hello(1_000_000), Capabilities::NONE);
    }

    #[test]
    fn fields_that_are_too_long_are_cut_and_no_character_or_escape_is() {
        for unit in [r"\n", r"\u00e4", r"\ud83d\ude00", "x", "ä", "😀"] {
            let text = unit.repeat(1_000_000 / unit.len());
            let line = format!(
                r#"~{{"type":"error-report","kind":"{text}","title":"{text}","description":"{text}","extra":{{"a":"{text}"}},"reason":"{text}"}}"#
            );
            let message = parsed(&line);
            let report = message.error_report().unwrap();
            let whole: String = serde_json::from_str(&format!("\"{text}\"")).unwrap();
            for (kept, most) in [
                (&report.kind, LONGEST_KIND),
                (&report.title, LONGEST_TITLE),
                (&report.description, LONGEST_DESCRIPTION),
            ] {
                assert!(whole.starts_with(kept.as_str()), "{unit}");
                let bounds = (most + SPARE) / 12 - 12..=most + SPARE;
                assert!(bounds.contains(&kept.len()), "{unit}: {}", kept.len());
            }
            assert!(report.extra.contains("bytes of extra are left out"));
            assert!(message.reboot().unwrap().unwrap().len() <= LONGEST_REASON + SPARE);
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in ".*") {
            let _ = (parse(&line), parse(&format!("~{{{line}}}")));
        }

        #[test]
        fn no_message_makes_it_panic(kind in "hello|log|error-report|x", value in ".{0,20}") {
            let line = format!(
                "~{{\"type\":\"{kind}\",\"capabilities\":{value},\"body\":{value},\"kind\":{value},\"extra\":{value}}}"
            );
            if let Some(message) = parse(&line) {
                let _ = (message.hello(), message.log_body(), message.error_report());
            }
        }
    }
}
