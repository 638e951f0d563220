//! Faults: rules that a test adds, each for certain calls and a number of times.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::answer::{Answer, Cut};

#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection is reset as soon as it is accepted, whatever its call would be.
    ResetAtAccept,
    /// The request is read, and the connection is reset without any effect.
    Reset,
    /// The call takes effect, and the connection is reset: its answer is lost.
    AnswerLost,
    /// The call waits until the rule is cleared, and then continues normally.
    Hang,
    /// As [`Fault::Hang`], for this long.
    HangFor(Duration),
    /// The call takes effect, and its answer is delayed by this much.
    LateAnswer(Duration),
    /// The call takes effect, and its answer breaks off.
    CutOff(Cut),
    /// The service's own 500, which names an incident.
    InternalError,
    /// This answer replaces the call.
    Answer(Answer),
    /// The call takes effect, and its answer has a guard prefix, as some servers write one: it is nearly JSON.
    NearlyJson,
    /// A 500 replaces the call; its message repeats the longest string of the request.
    Repeat(Spelling),
}

/// The form in which an answer repeats the sent text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// Each character as an escape of JSON, in a string.
    Escaped,
    /// At a position in a long line at which a truncated message ends inside the text.
    Late,
}

impl Spelling {
    /// The length of the text before it, so that the shown part of the message ends inside it.
    const LATE: usize = 500 - 30;

    /// The answer to this request.
    pub fn answer(self, payload: &[u8]) -> Answer {
        let mut texts = Vec::new();
        strings(&serde_json::from_slice(payload).unwrap_or_default(), &mut texts);
        // The longest string is unique to the request: a secret, or a proof.
        let text = texts.into_iter().max_by_key(String::len).unwrap_or_default();
        let message = match self {
            Self::Escaped => {
                let escaped: Vec<String> = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
                format!("cannot take \"{}\"", escaped.concat())
            }
            Self::Late => format!("{} {text}", "x".repeat(Self::LATE - 1)),
        };
        Answer::json(500, &json!({"code": "InternalServerError", "message": message}))
    }
}

fn strings(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Array(array) => array.iter().for_each(|value| strings(value, into)),
        Value::Object(object) => object.values().for_each(|value| strings(value, into)),
        Value::String(text) => into.push(text.clone()),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl Fault {
    /// The proxy's page when a service is down.
    pub fn bad_gateway() -> Self {
        Self::Answer(Answer::nginx(502, "Bad Gateway"))
    }

    /// The proxy's page when a service does not answer. The real one is sent after 60 s.
    pub fn gateway_timeout() -> Self {
        Self::Answer(Answer::nginx(504, "Gateway Time-out"))
    }

    /// 429, with this `Retry-After`: seconds, or an HTTP date.
    pub fn too_many_requests(retry_after: &str) -> Self {
        Self::Answer(Answer::nginx(429, "Too Many Requests").header("retry-after", retry_after))
    }

    /// 200 with another program's page.
    pub fn garbage() -> Self {
        let page = "<!DOCTYPE html>\n<html><body>Please log in to the network.</body></html>\n";
        Self::Answer(Answer::text(200, "text/html", page))
    }

    /// The call takes effect, and half of its answer is sent, with the whole length announced.
    pub fn truncated() -> Self {
        Self::CutOff(Cut::Length)
    }

    /// As [`Self::truncated`], with a chunked answer whose last chunk is missing.
    pub fn unfinished() -> Self {
        Self::CutOff(Cut::Chunks)
    }

    /// An error that repeats the call's longest string with an escape for each character.
    pub fn secret_escaped() -> Self {
        Self::Repeat(Spelling::Escaped)
    }

    /// An error whose truncated text contains the beginning of the call's longest string.
    pub fn secret_cut() -> Self {
        Self::Repeat(Spelling::Late)
    }

    /// Any other answer.
    pub fn answer(status: u16, content_type: &str, body: &str) -> Self {
        Self::Answer(Answer::text(status, content_type, body))
    }

    /// A 302 redirection.
    pub fn redirect(location: &str) -> Self {
        Self::Answer(Answer::nginx(302, "Found").header("location", location))
    }
}

/// The number of times that a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// For so many requests.
    Only(u32),
    /// Until it is cleared.
    UntilCleared,
}

/// Identifies a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(u64);

struct Rule {
    id: RuleId,
    /// A call's name, `any`, or `signed`: every call with credentials.
    call: String,
    left: Option<u32>,
    fault: Fault,
    /// Dropped with the rule, which releases the waiting requests.
    release: watch::Sender<()>,
}

/// The fault that applies to a request.
pub(super) struct Met {
    pub fault: Fault,
    released: watch::Receiver<()>,
}

impl Met {
    /// Waits until the rule is cleared.
    pub(super) async fn released(&mut self) {
        while self.released.changed().await.is_ok() {}
    }
}

#[derive(Default)]
struct Script {
    rules: Vec<Rule>,
    next: u64,
    /// Rules that are used up, but hold requests.
    holding: Vec<Rule>,
}

/// The rules. The first one that matches applies.
#[derive(Default)]
pub(super) struct Faults(Mutex<Script>);

impl Faults {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, call: &str, times: Times, fault: Fault) -> RuleId {
        let mut script = self.script();
        script.next += 1;
        let id = RuleId(script.next);
        let left = match times {
            Times::Only(left) => Some(left),
            Times::UntilCleared => None,
        };
        script.rules.push(Rule { id, call: call.to_owned(), left, fault, release: watch::Sender::new(()) });
        id
    }

    /// Removes a rule and releases its requests.
    pub(super) fn clear(&self, id: RuleId) {
        let mut script = self.script();
        script.rules.retain(|rule| rule.id != id);
        script.holding.retain(|rule| rule.id != id);
    }

    pub(super) fn clear_all(&self) {
        let mut script = self.script();
        script.rules.clear();
        script.holding.clear();
    }

    /// Returns true if a new connection is to be reset.
    pub(super) fn at_accept(&self) -> bool {
        self.take(|rule| matches!(rule.fault, Fault::ResetAtAccept)).is_some()
    }

    /// The fault that applies to a request.
    pub(super) fn at_request(&self, call: &str, signed: bool) -> Option<Met> {
        self.take(|rule| {
            !matches!(rule.fault, Fault::ResetAtAccept)
                && (rule.call == call || rule.call == "any" || signed && rule.call == "signed")
        })
    }

    fn take(&self, fits: impl Fn(&Rule) -> bool) -> Option<Met> {
        let mut script = self.script();
        let at = script.rules.iter().position(|rule| rule.left != Some(0) && fits(rule))?;
        let rule = script.rules.get_mut(at)?;
        let met = Met { fault: rule.fault.clone(), released: rule.release.subscribe() };
        rule.left = rule.left.map(|left| left.saturating_sub(1));
        if rule.left == Some(0) {
            let rule = script.rules.remove(at);
            if matches!(rule.fault, Fault::Hang) {
                script.holding.push(rule);
            }
        }
        Some(met)
    }
}
