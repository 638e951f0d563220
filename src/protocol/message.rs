//! The messages of the protocol, and what can be wrong with one.
//!
//! A message is one line: `~`, one JSON object with a string `type`, a newline. A line that is not quite that is the
//! worker's output ([`parse`] is `None`); one that is, but has a wrong type in a field, is a [`Malformed`].

use std::borrow::Cow;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use serde_json::value::RawValue;
use thiserror::Error;

use super::capabilities::{Capabilities, Capability};
use super::json::{Members, object, text};

/// From the runner to the worker.
#[derive(Debug)]
pub enum ToWorker {
    /// The first thing that is said.
    Welcome {
        /// What the runner can do.
        capabilities: Capabilities,
    },
    /// The worker is to end.
    GracefulTermination {
        /// `true`: finish the running tasks first. `false`: clean up and exit at once.
        finish_tasks: bool,
    },
    /// The worker is to use these credentials from now on.
    NewCredentials {
        /// `client-id`.
        client_id: String,
        /// `access-token`.
        access_token: SecretString,
        /// `certificate`: a string that holds JSON.
        certificate: Option<SecretString>,
    },
    /// What has come of an `autologin`.
    AutologinResult {
        /// Whom it asked for; `None`: nobody, or it did not say.
        user: Option<String>,
        /// Why it was not done.
        error: Option<String>,
    },
}

impl ToWorker {
    /// The line that goes to the worker, newline included.
    pub fn encode(&self) -> Vec<u8> {
        let value = match self {
            Self::Welcome { capabilities } => {
                json!({"type": "welcome", "capabilities": capabilities.names().collect::<Vec<_>>()})
            }
            Self::GracefulTermination { finish_tasks } => {
                json!({"type": "graceful-termination", "finish-tasks": finish_tasks})
            }
            Self::NewCredentials { client_id, access_token, certificate } => {
                let mut value = json!({
                    "type": "new-credentials",
                    "client-id": client_id,
                    "access-token": access_token.expose_secret(),
                });
                if let (Some(certificate), Some(object)) = (certificate, value.as_object_mut()) {
                    object.insert("certificate".to_owned(), certificate.expose_secret().into());
                }
                value
            }
            Self::AutologinResult { user, error: None } => {
                json!({"type": "autologin-result", "user": user, "ok": true})
            }
            Self::AutologinResult { user, error } => {
                json!({"type": "autologin-result", "user": user, "ok": false, "error": error})
            }
        };
        format!("~{value}\n").into_bytes()
    }
}

/// From the worker to the runner, as far as somebody has to act on it. (`log` messages stay with the output.)
#[derive(Debug, Clone, PartialEq)]
pub enum FromWorker {
    /// The worker speaks the protocol.
    Hello {
        /// What it can do; unknown names are left out.
        capabilities: Capabilities,
    },
    /// Whom the display manager is to log in at the next boot; where it cannot be read, that.
    Autologin(Result<AutologinRequest, Malformed>),
    /// Something went wrong that the pool's owners should know.
    ErrorReport(ErrorReport),
    /// The worker will now exit, and asks for a reboot of its host after that.
    Reboot {
        /// Why, where it says so.
        reason: Option<String>,
    },
    /// The worker asks for its host to go away.
    Shutdown,
}

/// The longest user that an `autologin` may name, in bytes: no system has longer ones.
const LONGEST_USER: usize = 256;

/// The fields of an `autologin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutologinRequest {
    /// The user; `None`: nobody.
    pub user: Option<String>,
    /// The desktop session; `None`: the configured one.
    pub session: Option<String>,
}

/// The fields of an `error-report`.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorReport {
    /// A short word for the sort of error.
    pub kind: String,
    /// One line.
    pub title: String,
    /// The whole story.
    pub description: String,
    /// Anything more: the JSON text of an object, as it came. (As values it would take thirty times the memory.)
    pub extra: String,
}

/// A message whose type is known and whose fields are not what they should be.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{message}: {field} is {found}, expected {expected}")]
pub struct Malformed {
    /// The message's type.
    pub message: &'static str,
    /// The field.
    pub field: &'static str,
    /// What is there, in words; never the value.
    pub found: &'static str,
    /// What should be.
    pub expected: &'static str,
}

/// The JSON object of a message line, not yet looked into: its members as they came, `type` apart.
#[derive(Debug)]
pub struct RawMessage<'a> {
    /// The value of `type`.
    pub kind: Cow<'a, str>,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// The object of a line that is a message: trimmed of white space it begins with `~{`, ends with `}`, parses as JSON
/// and has a string `type`. Anything else is output.
pub fn parse(line: &str) -> Option<RawMessage<'_>> {
    let Members(members) = serde_json::from_str(object(line)?).ok()?;
    let mut kind = None;
    let mut rest = Vec::with_capacity(members.len());
    for (key, value) in members {
        if key == "type" {
            kind = Some(text(value)?);
        } else {
            rest.push((key, value));
        }
    }
    Some(RawMessage { kind: kind?, members: rest })
}

impl<'a> RawMessage<'a> {
    /// A member as it came; of several with the same name the last.
    pub fn member(&self, name: &str) -> Option<&'a RawValue> {
        self.members.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// `hello`: the capabilities; where they are missing or malformed, that.
    pub fn hello(&self) -> Result<Capabilities, Malformed> {
        let wrong = |found| Malformed {
            message: "hello",
            field: "capabilities",
            found,
            expected: "an array of strings",
        };
        let raw = self.member("capabilities").ok_or_else(|| wrong("missing"))?;
        let names: Vec<Cow<'_, str>> = serde_json::from_str(raw.get()).map_err(|_| wrong(what_is(raw)))?;
        Ok(names.iter().filter_map(|name| Capability::named(name)).collect())
    }

    /// `error-report`.
    pub fn error_report(&self) -> Result<ErrorReport, Malformed> {
        let extra = match self.member("extra") {
            None => "{}".to_owned(),
            Some(raw) if raw.get().starts_with('{') => raw.get().to_owned(),
            Some(raw) => return Err(wrong("error-report", "extra", Some(raw), "an object")),
        };
        Ok(ErrorReport {
            kind: self.string("kind")?,
            title: self.string("title")?,
            description: self.string("description")?,
            extra,
        })
    }

    /// `reboot`: the reason, where there is one.
    pub fn reboot(&self) -> Result<Option<String>, Malformed> {
        self.optional_string("reboot", "reason")
    }

    /// `autologin`. The user must be there, for its absence may be a mistake, and null is an order.
    pub fn autologin(&self) -> Result<AutologinRequest, Malformed> {
        const NAME: &str = "autologin";
        let raw = self.member("user");
        let user = match raw {
            Some(raw) if raw.get() == "null" => None,
            _ => {
                let text = raw.and_then(text).map(Cow::into_owned);
                let user = text.ok_or_else(|| wrong(NAME, "user", raw, "a string or null"))?;
                if user.len() > LONGEST_USER {
                    let (found, expected) = ("a very long string", "a user's name of at most 256 bytes");
                    return Err(Malformed { message: NAME, field: "user", found, expected });
                }
                Some(user)
            }
        };
        Ok(AutologinRequest { user, session: self.optional_string(NAME, "session")? })
    }

    /// `log`: the body, an object as it came.
    pub fn log_body(&self) -> Result<&'a RawValue, Malformed> {
        let raw = self.member("body");
        raw.filter(|raw| raw.get().starts_with('{')).ok_or(Malformed {
            message: "log",
            field: "body",
            found: raw.map_or("missing", what_is),
            expected: "an object",
        })
    }

    fn string(&self, field: &'static str) -> Result<String, Malformed> {
        let raw = self.member(field);
        let text = raw.and_then(text).map(Cow::into_owned);
        text.ok_or_else(|| wrong("error-report", field, raw, "a string"))
    }

    /// A string, where there is one and it is not null.
    fn optional_string(
        &self,
        message: &'static str,
        field: &'static str,
    ) -> Result<Option<String>, Malformed> {
        let Some(raw) = self.member(field).filter(|raw| raw.get() != "null") else { return Ok(None) };
        let text = text(raw).map(Cow::into_owned);
        text.map(Some).ok_or_else(|| wrong(message, field, Some(raw), "a string"))
    }
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

/// What sort of value it is, in words.
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
