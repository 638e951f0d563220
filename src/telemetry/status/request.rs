//! What is said on the socket: requests, and the answers to them. One JSON object a line, both ways.

use serde::{Deserialize, Serialize};

use super::answer::StatusAnswer;
use crate::redact::cut;

/// What a complaint may quote of a request.
const LONGEST_COMPLAINT: usize = 200;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// What the runner is doing.
    Status {
        /// Whether an answer follows with every change, until the runner ends.
        #[serde(default)]
        watch: bool,
    },
    /// That the worker finishes its tasks, and the runner ends.
    Drain {
        /// Whether the answer comes when it has ended.
        #[serde(default)]
        wait: bool,
    },
    /// That a drained host starts its worker again.
    Resume {},
}

impl Request {
    /// Reads one line.
    ///
    /// # Errors
    ///
    /// The answer that says why it is no request.
    pub fn parse(line: &[u8]) -> Result<Self, Answer> {
        // Of an array serde would take the items for the members.
        if line.trim_ascii_start().starts_with(b"[") {
            return Err(Self::complaint("an array, expected an object"));
        }
        serde_json::from_slice(line)
            .map_err(|cause| Self::complaint(&cut(&cause.to_string(), LONGEST_COMPLAINT, "…")))
    }

    fn complaint(cause: &str) -> Answer {
        Answer::Error(format!(
            "not a request: {cause}; send {{\"request\":\"status\"}}, \"drain\" or \"resume\""
        ))
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// What has come of a resume.
    Resume(&'static str),
    /// Why nothing has come of the request.
    Error(String),
    /// What has come of a drain.
    #[serde(untagged)]
    Drain {
        /// `asked`, or `ended`.
        drain: &'static str,
        /// How the runner has ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        outcome: Option<String>,
    },
    /// What the runner is doing.
    #[serde(untagged)]
    Status(Box<StatusAnswer>),
}

impl Answer {
    /// A drain is on its way.
    pub const DRAINING: Self = Self::Drain { drain: "asked", outcome: None };
    /// The worker is started again.
    pub const RESUMED: Self = Self::Resume("resumed");
    /// There was nothing to resume.
    pub const NOT_HOLDING: Self = Self::Resume("not holding");

    /// The drain is over, with this outcome of the runner.
    pub fn ended(outcome: String) -> Self {
        Self::Drain { drain: "ended", outcome: Some(outcome) }
    }

    /// With the newline.
    pub fn line(&self) -> Vec<u8> {
        // Strings and numbers make no trouble; a client that gets an empty line asks again.
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
            (r#" {"request" : "drain"} "#, Request::Drain { wait: false }),
            (r#"{"wait":true,"request":"drain"}"#, Request::Drain { wait: true }),
            ("{\"request\":\"resume\"}\r", Request::Resume {}),
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
        let said = said.concat().replace(r#"; send {\"request\":\"status\"}, \"drain\" or \"resume\""}"#, "");
        insta::assert_snapshot!(said, @r#"
        {"error":"not a request: EOF while parsing a value at line 1 column 0
        {"error":"not a request: expected value at line 1 column 1
        {"error":"not a request: expected value at line 1 column 1
        {"error":"not a request: an array, expected an object
        {"error":"not a request: missing field `request` at line 1 column 2
        {"error":"not a request: unknown variant `stop`, expected one of `status`, `drain`, `resume` at line 1 column 17
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
            Answer::DRAINING,
            Answer::ended("stopped as asked".to_owned()),
            Answer::RESUMED,
            Answer::NOT_HOLDING,
            Answer::Error("a\nb".to_owned()),
        ];
        let said = answers.map(|answer| String::from_utf8(answer.line()).unwrap()).concat();
        insta::assert_snapshot!(said, @r#"
        {"drain":"asked"}
        {"drain":"ended","outcome":"stopped as asked"}
        {"resume":"resumed"}
        {"resume":"not holding"}
        {"error":"a\nb"}
        "#);
    }
}
