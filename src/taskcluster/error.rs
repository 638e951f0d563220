//! The errors of failed calls, for operators: one line with the call, its URL, the reason and the answer.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use thiserror::Error;

use super::attempts::Failure;
use crate::redact::{assigns_a_secret, cut, mask_urls};

/// Maximum length of a quoted body that is not JSON, in characters.
const SHOWN_OF_A_PAGE: usize = 200;
/// Maximum length of a quoted message, in characters.
const SHOWN_OF_A_MESSAGE: usize = 500;

/// A longer code is not Taskcluster's: `AuthenticationFailed` has 20 letters, a slug 22 characters, a token 44.
const LONGEST_CODE: usize = 40;

/// The content types that may be quoted. Any other text may contain the same secrets as the body.
const TYPES: &[&str] = &[
    "application/json",
    "application/problem+json",
    "application/xml",
    "application/x-www-form-urlencoded",
    "application/octet-stream",
    "text/html",
    "text/plain",
    "text/xml",
];

/// The reason why a client cannot be created.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The root URL is invalid.
    #[error("cannot call Taskcluster at `{url}`: {why}")]
    RootUrl {
        /// The root URL as configured.
        url: String,
        why: String,
    },
    /// The proxy is invalid. Its URL may contain a password, and is not shown.
    #[error("cannot call Taskcluster through the proxy that {variable} names: {why}")]
    Proxy { variable: &'static str, why: String },
}

/// The reason for the failure of a call to Taskcluster. Its text is one line, and contains no secret.
#[derive(Debug, Error)]
pub struct CallError(Box<Details>);

#[derive(Debug)]
struct Details {
    call: Target,
    why: Why,
    permanent: bool,
    may_have_been_done: bool,
    attempts: u32,
    took: Duration,
}

/// The call, in the form that is shown.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Its name in Taskcluster's reference.
    pub(super) name: &'static str,
    pub(super) method: &'static str,
    /// Without query and secrets.
    pub(super) url: String,
}

/// The reason for the failure of an attempt.
#[derive(Debug, Clone)]
pub(super) enum Why {
    /// An answer that refuses the call, or reports a server error.
    Answer(Box<Refusal>),
    /// A redirection.
    Redirect { status: u16, to: String, root_url: Option<String> },
    /// An unusable answer.
    Broken(String),
    /// No answer.
    Transport(String),
    /// No complete answer within this time.
    TimedOut(Duration),
    /// No request was sent.
    NotSent(String),
}

/// The content of an answer other than 2xx and 3xx.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: Option<String>,
    /// The beginning of the message, or of the text in its place, as one line.
    pub(super) says: String,
    /// The whole message, which may contain secrets.
    pub(super) message: SecretString,
    /// The missing scopes.
    scopes: Option<String>,
}

impl CallError {
    pub(super) fn new(call: Target, last: Failure, tried: &Tried) -> Self {
        let permanent = last.is_permanent();
        let Tried { attempts, took, may_have_been_done } = *tried;
        Self(Box::new(Details { call, why: last.why, permanent, may_have_been_done, attempts, took }))
    }

    /// Returns true if a retry is pointless: Taskcluster, or a server in front of it, refused the call (4xx, or a
    /// redirection), or the call could not be made at all.
    pub fn refused(&self) -> bool {
        self.0.permanent
    }

    /// The HTTP status of the last answer.
    pub fn status(&self) -> Option<u16> {
        match self.0.why {
            Why::Answer(ref refusal) => Some(refusal.status),
            Why::Redirect { status, .. } => Some(status),
            Why::Broken(_) | Why::Transport(_) | Why::TimedOut(_) | Why::NotSent(_) => None,
        }
    }

    /// Taskcluster's own error code, such as `InputError`.
    pub fn code(&self) -> Option<&str> {
        match &self.0.why {
            Why::Answer(refusal) => refusal.code.as_deref(),
            _ => None,
        }
    }

    /// Returns true if Taskcluster reported that the resource does not exist. A proxy's 404 page does not count.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404) && self.code() == Some("ResourceNotFound")
    }

    /// The missing scopes, if they are the reason for the refusal.
    pub fn missing_scopes(&self) -> Option<String> {
        match &self.0.why {
            Why::Answer(refusal) => refusal.scopes.clone(),
            _ => None,
        }
    }

    /// Returns true if the answer's message contains this word, even if the message is not shown.
    pub(super) fn names(&self, word: &str) -> bool {
        matches!(&self.0.why, Why::Answer(refusal) if refusal.message.expose_secret().contains(word))
    }

    /// Returns true if Taskcluster may have executed an attempt of this call although its answer was lost. That may
    /// explain the refusal of a later attempt.
    pub fn may_have_been_done(&self) -> bool {
        self.0.may_have_been_done
    }
}

/// The result of a call, for counters: `ok`, `refused`, `failed`.
pub fn result_of<T>(result: &Result<T, CallError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(cause) if cause.refused() => "refused",
        Err(_) => "failed",
    }
}

/// The attempts of a call that finally failed.
pub(super) struct Tried {
    pub(super) attempts: u32,
    pub(super) took: Duration,
    pub(super) may_have_been_done: bool,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { call, why, attempts, took, .. } = &*self.0;
        write!(f, "{call}: {why}")?;
        if *attempts > 1 {
            write!(f, " (attempt {attempts}, after {})", span(*took))?;
        }
        Ok(())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {} {}", self.name, self.method, self.url)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(refusal) => refusal.fmt(f),
            Self::Redirect { status, to, root_url: Some(root_url) } => {
                write!(
                    f,
                    "{status}, redirected to {to}: redirections are not followed; set rootURL to {root_url}"
                )
            }
            Self::Redirect { status, to, root_url: None } => write!(
                f,
                "{status}, redirected to {to}: redirections are not followed; see whether rootURL is right"
            ),
            Self::Broken(why) | Self::Transport(why) | Self::NotSent(why) => f.write_str(why),
            Self::TimedOut(limit) => write!(f, "timed out after {}", span(*limit)),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, code, says, .. } = self;
        write!(f, "{status}")?;
        let reason = reqwest::StatusCode::from_u16(*status).ok().and_then(|status| status.canonical_reason());
        match (code, reason) {
            (Some(code), _) => write!(f, " {code}")?,
            (None, Some(reason)) if !reason.eq_ignore_ascii_case(says) => write!(f, " {reason}")?,
            (None, _) => {}
        }
        if says.is_empty() { Ok(()) } else { write!(f, ": {says}") }
    }
}

/// The body with which Taskcluster's services refuse a call. A proxy may answer anything.
#[derive(Default, Deserialize)]
struct RefusalBody {
    code: Option<String>,
    message: Option<String>,
    /// Set in answers for an unknown path.
    error: Option<String>,
}

/// Determines the part of an answer that an error may quote.
pub(super) struct Quoting<'a> {
    /// False if the body may contain secrets, whatever it looks like.
    pub(super) body: bool,
    /// The answer's content type, if it has one.
    pub(super) content_type: Option<&'a str>,
    /// Masks secrets in a text.
    pub(super) mask: &'a dyn Fn(&str) -> String,
}

impl Quoting<'_> {
    /// Joins and truncates a text. Secrets are masked first, because they would not be recognized afterwards.
    fn shown(&self, text: &str, longest: usize) -> String {
        cut(&one_line(&mask_urls(&(self.mask)(text))), longest, "…").into_owned()
    }

    /// The text that replaces a body.
    fn not_shown(&self) -> String {
        let essence = self.content_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
        let known = TYPES.iter().find(|known| known.eq_ignore_ascii_case(essence));
        let content_type = known.map(|known| format!(" ({known})")).unwrap_or_default();
        format!("the answer{content_type} is not shown because it may hold secrets")
    }
}

impl Why {
    /// Reads an answer other than 2xx and 3xx.
    pub(super) fn of_answer(status: u16, body: &[u8], quoting: &Quoting<'_>) -> Self {
        let body = without_byte_order_mark(body);
        let RefusalBody { code, message, error } = serde_json::from_slice(body).unwrap_or_default();
        let is_word = |code: &str| {
            (1..=LONGEST_CODE).contains(&code.len()) && code.chars().all(|c| c.is_ascii_alphabetic())
        };
        let code = code.map(|code| quoting.shown(&code, SHOWN_OF_A_PAGE));
        let code = code.filter(|code| quoting.body || is_word(code));
        let message = message.map(|message| (quoting.mask)(&message));
        let lacks_scopes = code.as_deref() == Some("InsufficientScopes");
        let scopes = message.as_deref().filter(|_| lacks_scopes).and_then(scopes);
        let says = match (&message, error) {
            (Some(message), _) if quoting.body || lacks_scopes => {
                quoting.shown(first_part(message), SHOWN_OF_A_MESSAGE)
            }
            // The message may repeat an answer whose secrets are not known yet.
            (Some(message), _) if assigns_a_secret(first_line(message)) => quoting.not_shown(),
            (Some(message), _) => quoting.shown(first_line(message), SHOWN_OF_A_MESSAGE),
            (None, _) if body.trim_ascii().is_empty() => String::new(),
            (None, _) if !quoting.body => quoting.not_shown(),
            (None, Some(error)) => quoting.shown(&error, SHOWN_OF_A_PAGE),
            (None, None) => quoting.shown(&String::from_utf8_lossy(body), SHOWN_OF_A_PAGE),
        };
        let message = message.unwrap_or_default().into();
        Self::Answer(Box::new(Refusal { status, code, says, message, scopes }))
    }

    /// A successful answer whose body is not the expected JSON. Values are not shown, because they may be secret.
    pub(super) fn of_body(error: &serde_json::Error, body: &[u8], quoting: &Quoting<'_>) -> Self {
        let text = String::from_utf8_lossy(body);
        let at = format!("line {}, column {}", error.line(), error.column());
        let what = error.to_string();
        if what.starts_with("missing field ") {
            return Self::Broken(format!("the answer cannot be used: {what}"));
        }
        if error.is_data() {
            return Self::Broken(format!("the answer cannot be used: not the expected JSON at {at}"));
        }
        // A body that begins like an answer may contain the secrets of an answer.
        if body.is_empty() || text.trim_start().starts_with(['{', '[', '"']) {
            return Self::Broken(format!("the answer is not JSON: {what}"));
        }
        if !quoting.body {
            return Self::Broken(format!("the answer is not JSON: {what}; {}", quoting.not_shown()));
        }
        Self::Broken(format!("the answer is not JSON: {}", quoting.shown(&text, SHOWN_OF_A_PAGE)))
    }
}

impl Why {
    /// Masks secrets in a library's error text.
    pub(super) fn masked(mut self, mask: impl Fn(&str) -> String) -> Self {
        if let Self::Broken(text) | Self::Transport(text) | Self::NotSent(text) = &mut self {
            *text = mask(text);
        }
        self
    }
}

/// Removes the byte order mark that some servers write before a text.
pub(super) fn without_byte_order_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// The part before the repetition of the request. Missing scopes are quoted once; the scope expression after them
/// repeats them.
fn first_part(message: &str) -> &str {
    let part = message.split_once("\n---\n").map_or(message, |(before, _)| before);
    part.split_once("\nThis request requires the client to satisfy").map_or(part, |(before, _)| before)
}

/// The text up to the first character at which a reader may break the line.
fn first_line(message: &str) -> &str {
    let ends = |c: char| c.is_control() && c != '\t' || matches!(c, '\u{2028}' | '\u{2029}');
    message.split(ends).next().unwrap_or_default()
}

/// The scopes between the first two fences.
fn scopes(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("```")?;
    let (scopes, _) = rest.split_once("```")?;
    Some(cut(&one_line(scopes), SHOWN_OF_A_MESSAGE, "…").into_owned())
}

/// Joins all lines, without fences and control characters.
fn one_line(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| *word != "```");
    words.collect::<Vec<_>>().join(" ").replace(char::is_control, "")
}

/// Formats a duration: tenths of a second below ten seconds, whole seconds above.
pub(super) fn span(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        let tenths = duration.as_millis().saturating_add(50) / 100;
        return if tenths.is_multiple_of(10) {
            format!("{}s", tenths / 10)
        } else {
            format!("{}.{}s", tenths / 10, tenths % 10)
        };
    }
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}
