//! Validation of strings, by the type of their key.

use std::time::Duration;

use super::keys::Takes;
use crate::host::autologin::name::{NameError, SessionName, Tty, UserName};

/// Maximum duration: timers and dates far in the future overflow, and nobody needs them.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The reason why a text is invalid.
pub(super) struct Complaint {
    /// A description of the expected value.
    pub(super) expected: String,
    /// The remedy.
    pub(super) hint: &'static str,
    /// True if the text may contain a secret although its key does not say so.
    pub(super) secret: bool,
}

fn complain<T>(expected: impl Into<String>, hint: &'static str) -> Result<T, Complaint> {
    Err(Complaint { expected: expected.into(), hint, secret: false })
}

/// Validates a text. Returns it in the form in which the configuration stores it.
pub(super) fn checked(takes: Takes, text: &str) -> Result<String, Complaint> {
    if text.is_empty() {
        return complain(takes.in_words(), "give one");
    }
    if text.contains(char::is_control) {
        return complain(
            "a string without line breaks and control characters",
            "quote it instead of using `|`",
        );
    }
    let good = match takes {
        Takes::RootUrl => return root_url(text),
        Takes::WorkerPoolId => {
            text.split_once('/').is_some_and(|(one, two)| !one.is_empty() && !two.is_empty())
        }
        Takes::StaticSecret => {
            text.len() == 44 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        }
        Takes::Certificate => serde_json::from_str::<serde_json::Map<_, _>>(text).is_ok(),
        Takes::UserName => return user_name(text),
        Takes::Tty => Tty::parse(text).is_ok(),
        Takes::SessionName => SessionName::parse(text).is_ok(),
        _ => true,
    };
    if good { Ok(text.to_owned()) } else { complain(takes.in_words(), "") }
}

fn root_url(text: &str) -> Result<String, Complaint> {
    let what = "an http or https URL";
    let stripped = text.trim_end_matches('/');
    if text.contains('@') {
        let expected = format!("{what} without credentials");
        return Err(Complaint { expected, hint: "remove what stands before the @", secret: true });
    }
    let Some(rest) = stripped.strip_prefix("https://").or_else(|| stripped.strip_prefix("http://")) else {
        return complain(what, "write it as in https://tc.example.com");
    };
    if rest.contains(['?', '#', '\\', '"', '<', '>']) || rest.contains(char::is_whitespace) {
        return complain(what, "it has neither spaces nor a query");
    }
    let host = rest.split('/').next().unwrap_or_default();
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse::<u16>().is_ok()),
        _ => (host, true),
    };
    if name.is_empty() || !port {
        return complain(what, "write it as in https://tc.example.com");
    }
    Ok(stripped.to_owned())
}

/// Validates the name of a user for a display manager's file.
fn user_name(text: &str) -> Result<String, Complaint> {
    match UserName::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(NameError::Root) => complain("a user name", "display managers do not log root in"),
        Err(_) => complain("a user name", "up to 32 of a-z, 0-9, - and _, a letter first"),
    }
}

pub(super) fn duration(text: &str, zero: bool) -> Result<Duration, Complaint> {
    let example = "write it as in 90s, 15m, 6h or 1h 30m";
    match humantime::parse_duration(text) {
        Err(_) if text.parse::<f64>().is_ok() => complain("a duration", "add a unit, as in 90s"),
        Err(_) => complain("a duration", example),
        Ok(duration) if duration > LONGEST => complain("a duration of at most 10 years", ""),
        Ok(Duration::ZERO) if !zero => complain("a duration of more than zero", ""),
        Ok(duration) => Ok(duration),
    }
}

/// YAML 1.1's other booleans, which people still write.
pub(super) fn old_boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" => Some(true),
        "no" | "off" => Some(false),
        _ => None,
    }
}

/// Returns true if YAML 1.1 parses the text as a date: `2026-11-23`, alone or followed by a time.
pub(super) fn looks_like_a_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let digits = |part: &str, least, most| {
        (least..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let (Some(year), Some(month), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (day, time) = rest.split_at(end);
    digits(year, 4, 4)
        && digits(month, 1, 2)
        && digits(day, 1, 2)
        && (time.is_empty()
            || time
                .trim_start_matches(['T', 't', ' ', '\t'])
                .split_once(':')
                .is_some_and(|(hour, _)| hour.len() < time.len() && digits(hour, 1, 2)))
}
