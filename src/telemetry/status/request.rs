//! The requests and answers on the socket. One JSON object a line, in both directions.

use serde::{Deserialize, Serialize};

use super::answer::StatusAnswer;
use crate::redact::cut;

/// Maximum length of the quoted cause in a complaint about a request, in characters.
const LONGEST_COMPLAINT: usize = 200;

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Asks for the runner's status.
    Status {
        /// True if another answer should follow with every change, until the runner ends.
        #[serde(default)]
        watch: bool,
    },
    /// That the worker finishes its tasks, the runner ends, and no worker is started until the host is resumed.
    Drain {
        /// True if the answer should be sent after the end.
        #[serde(default)]
        wait: bool,
        /// True if workers may be started again after the runner's end.
        #[serde(default)]
        once: bool,
        /// The operator.
        #[serde(default)]
        by: Option<String>,
        /// The operator's words.
        #[serde(default)]
        reason: Option<String>,
    },
    /// That no other worker is started until the host is resumed.
    Hold {
        /// The operator.
        #[serde(default)]
        by: Option<String>,
        /// The operator's words.
        #[serde(default)]
        reason: Option<String>,
    },
    /// That a host that is held may start workers again.
    Resume {},
    /// Asks the runner to log at another level for some time.
    #[serde(rename = "log-level")]
    LogLevel {
        /// A filter as for `--log-level`, or `configured`.
        level: String,
        /// Duration, in seconds.
        seconds: u64,
    },
}

impl Request {
    /// Parses one line. The error is the answer that explains why the line is not a request.
    pub fn parse(line: &[u8]) -> Result<Self, Answer> {
        // serde would accept an array's items as the members.
        if line.trim_ascii_start().starts_with(b"[") {
            return Err(Self::complaint("an array, expected an object"));
        }
        serde_json::from_slice(line)
            .map_err(|cause| Self::complaint(&cut(&cause.to_string(), LONGEST_COMPLAINT, "…")))
    }

    fn complaint(cause: &str) -> Answer {
        Answer::Error(format!(
            "not a request: {cause}; send {{\"request\":\"status\"}}, \"drain\", \"hold\", \"resume\" or \"log-level\""
        ))
    }
}

/// An answer to a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The hold that is in force now, in words.
    Hold(String),
    /// The result of a resume.
    Resume(&'static str),
    /// The reason why a request failed.
    Error(String),
    /// The result of a drain.
    #[serde(untagged)]
    Drain {
        /// `asked`, or `ended`.
        drain: &'static str,
        /// The runner's outcome.
        #[serde(skip_serializing_if = "Option::is_none")]
        outcome: Option<String>,
        /// The reason why the host is not held all the same.
        #[serde(rename = "notHeld", skip_serializing_if = "Option::is_none")]
        not_held: Option<String>,
    },
    /// The level of the log from now on.
    #[serde(untagged)]
    LogLevel {
        /// The requested level.
        #[serde(rename = "logLevel")]
        level: String,
        /// The time at which the configured level returns.
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<String>,
    },
    /// The runner's status.
    #[serde(untagged)]
    Status(Box<StatusAnswer>),
}

impl Answer {
    /// The worker is started again.
    pub const RESUMED: Self = Self::Resume("resumed");
    /// The runner was not holding.
    pub const NOT_HOLDING: Self = Self::Resume("not holding");

    /// A drain is on its way; `not_held`: the reason why workers may be started after it.
    pub fn draining(not_held: Option<String>) -> Self {
        Self::Drain { drain: "asked", outcome: None, not_held }
    }

    /// The drain is over, with this outcome of the runner.
    pub fn ended(outcome: String, not_held: Option<String>) -> Self {
        Self::Drain { drain: "ended", outcome: Some(outcome), not_held }
    }

    /// Encodes the answer as a line, including its newline.
    pub fn line(&self) -> Vec<u8> {
        // Serializing strings and numbers cannot fail; a client that receives an empty line can repeat its request.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_json_objects() {
        for (line, request) in [
            (r#"{"request":"status"}"#, Request::Status { watch: false }),
            (r#"{"request":"status","watch":true}"#, Request::Status { watch: true }),
            (
                r#" {"request" : "drain"} "#,
                Request::Drain { wait: false, once: false, by: None, reason: None },
            ),
            (
                r#"{"wait":true,"once":true,"request":"drain"}"#,
                Request::Drain { wait: true, once: true, by: None, reason: None },
            ),
            (
                r#"{"request":"hold","by":"alice","reason":"disk"}"#,
                Request::Hold { by: Some("alice".to_owned()), reason: Some("disk".to_owned()) },
            ),
            ("{\"request\":\"resume\"}\r", Request::Resume {}),
            (
                r#"{"request":"log-level","level":"debug","seconds":60}"#,
                Request::LogLevel { level: "debug".to_owned(), seconds: 60 },
            ),
        ] {
            assert_eq!(Request::parse(line.as_bytes()), Ok(request), "{line}");
        }
    }

    #[test]
    fn what_is_no_request_is_told_why() {
        let lines = [
            &b""[..],
            b"status",
            b"\xff\xfe",
            br#"["drain",true]"#,
            b"{}",
            br#"{"request":"stop"}"#,
            br#"{"request":"resume","wait":true}"#,
            br#"{"request":"drain","wait":"yes"}"#,
        ];
        let said = lines.map(|line| String::from_utf8(Request::parse(line).unwrap_err().line()).unwrap());
        let said = said.concat().replace(
            r#"; send {\"request\":\"status\"}, \"drain\", \"hold\", \"resume\" or \"log-level\""}"#,
            "",
        );
        insta::assert_snapshot!(said, @r#"
        {"error":"not a request: EOF while parsing a value at line 1 column 0
        {"error":"not a request: expected value at line 1 column 1
        {"error":"not a request: expected value at line 1 column 1
        {"error":"not a request: an array, expected an object
        {"error":"not a request: missing field `request` at line 1 column 2
        {"error":"not a request: unknown variant `stop`, expected one of `status`, `drain`, `hold`, `resume`, `log-level` at line 1 column 17
        {"error":"not a request: unknown field `wait`, there are no fields
        {"error":"not a request: invalid type: string \"yes\", expected a boolean
        "#);
    }

    #[test]
    fn a_complaint_is_short_however_long_the_request() {
        let line = format!(r#"{{"request":"{}"}}"#, "é".repeat(10_000));
        assert!(Request::parse(line.as_bytes()).unwrap_err().line().len() < 600);
    }

    #[test]
    fn answers_are_one_line_each() {
        let answers = [
            Answer::draining(None),
            Answer::draining(Some("no place".to_owned())),
            Answer::ended("stopped as asked".to_owned(), None),
            Answer::Hold("held by alice".to_owned()),
            Answer::RESUMED,
            Answer::NOT_HOLDING,
            Answer::Error("a\nb".to_owned()),
        ];
        let said = answers.map(|answer| String::from_utf8(answer.line()).unwrap()).concat();
        insta::assert_snapshot!(said, @r#"
        {"drain":"asked"}
        {"drain":"asked","notHeld":"no place"}
        {"drain":"ended","outcome":"stopped as asked"}
        {"hold":"held by alice"}
        {"resume":"resumed"}
        {"resume":"not holding"}
        {"error":"a\nb"}
        "#);
    }
}
