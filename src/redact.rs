//! Masks secrets in visible text: recognizes keys that name a secret and values that are known to be secret, and
//! replaces them.
//!
//! [`Secrets::mask`] is the single function through which all visible foreign text passes: the log, the status, the
//! health, reports and the text for the service manager. [`cut`] is applied after it, never before.

use std::borrow::Cow;

use serde_json::Value;

mod decode;
mod known;
mod lives;
mod search;

pub use known::Secrets;

/// The replacement for a secret.
pub const MASK: &str = "(masked)";

/// Truncates a text to its first characters, followed by `mark` if there were more. The text must be masked before,
/// because a truncated secret cannot be recognized. A [`MASK`] is kept whole or dropped.
pub fn cut<'t>(text: &'t str, longest: usize, mark: &str) -> Cow<'t, str> {
    let Some((end, _)) = text.char_indices().nth(longest) else { return Cow::Borrowed(text) };
    let around = boundary_before(text, end.saturating_sub(MASK.len() - 1));
    let masks = text.get(around..).unwrap_or_default().match_indices(MASK).map(|(at, _)| around + at);
    let end = masks.take_while(|start| *start < end).find(|start| start + MASK.len() > end).unwrap_or(end);
    Cow::Owned(format!("{}{mark}", text.get(..end).unwrap_or_default()))
}

/// Truncates a text to at most `room` characters, including the mark. Otherwise as [`cut`].
pub fn fit<'t>(text: &'t str, room: usize, mark: &str) -> Cow<'t, str> {
    if text.char_indices().nth(room).is_none() {
        return Cow::Borrowed(text);
    }
    cut(text, room.saturating_sub(mark.chars().count()), mark)
}

/// Removes the parts of URLs that may hide a secret: everything before the `@`, also without a scheme, the query and
/// the fragment.
pub fn mask_urls(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || "\"'`<>".contains(c);
    let mut masked = String::with_capacity(text.len());
    for word in text.split_inclusive(ends) {
        let (start, rest) = match word.find("://") {
            Some(at) => word.split_at(at + "://".len()),
            None => ("", word),
        };
        let authority = rest.find(['/', '?', '#', '\\']).filter(|_| !start.is_empty()).unwrap_or(rest.len());
        // A password may contain a slash that should have been encoded.
        let at = rest
            .rfind('@')
            .filter(|at| *at < authority || rest.get(..*at).is_some_and(|user| user.contains(':')));
        let at = at.filter(|at| !start.is_empty() || rest.get(..*at).is_some_and(|user| user.contains(':')));
        masked.push_str(start);
        let rest = at.map_or(rest, |at| rest.get(at..).unwrap_or_default());
        if at.is_some() {
            masked.push_str(MASK);
        }
        let hidden = rest.find(['?', '#']).filter(|_| !start.is_empty()).map(|at| rest.split_at(at + 1));
        match hidden.filter(|(_, hidden)| !hidden.trim_end_matches(ends).is_empty()) {
            Some((before, hidden)) => {
                let kept = hidden.trim_end_matches(ends).len();
                masked.extend([before, MASK, hidden.get(kept..).unwrap_or_default()]);
            }
            None => masked.push_str(rest),
        }
    }
    masked
}

/// The values assigned to names of secrets in a line: `password = …`, `TOKEN=…`, `machine … password …`.
fn assigned_secrets(line: &str) -> impl Iterator<Item = &str> {
    let ends = |c: char| "\"',;".contains(c);
    let words: Vec<&str> =
        line.split_whitespace().filter(|word| !word.chars().all(|c| ":=".contains(c))).collect();
    let next = words.iter().skip(1).copied().map(Some).chain([None]).collect::<Vec<_>>();
    let pairs = words.into_iter().zip(next);
    pairs.filter_map(move |(word, next)| {
        let (name, value) = word.split_once([':', '=']).unwrap_or((word, ""));
        let value = if value.is_empty() { next? } else { value };
        names_a_secret(name).then(|| value.trim_matches(ends))
    })
}

/// Returns true if a text assigns a value to a name of a secret: `accessToken: …`, `password=…`.
pub fn assigns_a_secret(text: &str) -> bool {
    let ends = |c: char| c.is_whitespace() || "{}[]()<>,;&?\\\"'".contains(c);
    let words = text.split(ends).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    let names = |word: &str| word.split_once([':', '=']).is_some_and(|(name, _)| names_a_secret(name));
    words.iter().any(|word| names(word))
        || words
            .windows(2)
            .any(|pair| matches!(pair, [name, next] if names_a_secret(name) && next.starts_with([':', '='])))
}

/// The nearest character boundary at or before a position.
fn boundary_before(text: &str, place: usize) -> usize {
    (0..=place.min(text.len())).rev().find(|place| text.is_char_boundary(*place)).unwrap_or_default()
}

/// The nearest character boundary at or after a position.
fn boundary_after(text: &str, place: usize) -> usize {
    (place..text.len()).find(|place| text.is_char_boundary(*place)).unwrap_or(text.len())
}

/// Returns true if a key says that its value is a secret: one of its words is `secret`, `token`, `password`, `passwd`
/// or `credential` (or their plurals), or two of them are `private` and `key`. Words are separated by case and by any
/// character that is neither letter nor digit: `privateKey`, `private_key` and `PRIVATE-KEY` consist of the same two
/// words.
pub fn names_a_secret(key: &str) -> bool {
    let words = words(key);
    let has =
        |wanted: &str| words.iter().any(|word| word == wanted || word.strip_suffix('s') == Some(wanted));
    ["secret", "token", "password", "passwd", "credential"].into_iter().any(has)
        || (has("private") && has("key"))
}

/// Masks the string values whose key, or the key of an enclosing object, [names a secret](names_a_secret). Numbers,
/// booleans and file paths are kept.
pub fn mask_by_key(value: &mut Value) {
    mask(value, false);
}

/// Masks the strings that contain one of these secrets in any encoding, even very short ones.
pub fn mask_known(value: &mut Value, known: &[&str]) {
    let secrets = Secrets::default();
    for secret in known {
        secrets.add_configured(secret);
    }
    mask_strings_with(value, known, &secrets);
}

fn mask_strings_with(value: &mut Value, known: &[&str], secrets: &Secrets) {
    match value {
        Value::Object(object) => {
            object.values_mut().for_each(|value| mask_strings_with(value, known, secrets));
        }
        Value::Array(array) => array.iter_mut().for_each(|value| mask_strings_with(value, known, secrets)),
        Value::String(text) => {
            if known.iter().any(|secret| text.contains(secret)) || secrets.mask(text.as_str()) != *text {
                MASK.clone_into(text);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn mask(value: &mut Value, secret: bool) {
    match value {
        Value::Object(object) => {
            object.iter_mut().for_each(|(key, value)| mask(value, secret || names_a_secret(key)));
        }
        Value::Array(array) => array.iter_mut().for_each(|value| mask(value, secret)),
        Value::String(text) if secret && !is_a_path(text) => MASK.clone_into(text),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Returns true if a text looks like a file path. Base64, too, may begin with a slash. It hardly ever continues with
/// only lower-case letters up to a second slash, which is the form of all folders directly below the root.
fn is_a_path(text: &str) -> bool {
    let windows =
        text.get(1..3).is_some_and(|two| two == ":\\") && text.starts_with(|c: char| c.is_ascii_alphabetic());
    let rest = ["/", "./", "../", "~/"].into_iter().find_map(|start| text.strip_prefix(start));
    windows
        || rest.and_then(|rest| rest.split_once('/')).is_some_and(|(folder, rest)| {
            let name = folder.chars().all(|c| c.is_ascii_lowercase() || "-_.".contains(c));
            (name || ["Users", "Library", "Volumes"].contains(&folder))
                && !folder.is_empty()
                && !rest.contains(['+', '=', '\n'])
        })
}

fn words(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = Class::Other;
    let mut letters = key.chars().peekable();
    while let Some(letter) = letters.next() {
        let class = Class::of(letter);
        // `APIToken`: the last capital of a run belongs to the following word.
        let next_is_lower = letters.peek().is_some_and(|next| Class::of(*next) == Class::Lower);
        let starts = match (before, class) {
            (Class::Upper, Class::Upper) => next_is_lower,
            (Class::Upper, Class::Lower) => false,
            (before, class) => before != class,
        };
        if starts {
            words.push(String::new());
        }
        if let (true, Some(word)) = (class != Class::Other, words.last_mut()) {
            word.extend(letter.to_lowercase());
        }
        before = class;
    }
    words
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Upper,
    Lower,
    Digit,
    Other,
}

impl Class {
    fn of(letter: char) -> Self {
        if letter.is_uppercase() {
            Self::Upper
        } else if letter.is_alphabetic() {
            Self::Lower
        } else if letter.is_numeric() {
            Self::Digit
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_that_name_a_secret_are_told_by_their_words() {
        for key in [
            "secret",
            "accessToken",
            "ACCESS_TOKEN",
            "api-token",
            "APIToken",
            "dbPassword",
            "passwd",
            "credential",
            "awsCredentials",
            "privateKey",
            "ssh_private_key",
            "PrivateSSHKey",
            "token2",
            "keyPrivate",
        ] {
            assert!(names_a_secret(key), "{key}");
        }
        for key in
            ["", "key", "private", "tokenizer", "passwordless", "secretary", "monkey", "publicKey", "…"]
        {
            assert!(!names_a_secret(key), "{key}");
        }
    }

    #[test]
    fn only_strings_that_are_no_paths_are_masked() {
        let mut value = json!({
            "getSecrets": true, "tokenCount": 3, "token": "abc", "secretPath": "/etc/taskcluster/key",
            "credentials": {"clientId": "me", "list": ["x", 1, null]}, "plain": "shown",
            "windowsSecret": "C:\\keys\\one", "base64Token": "/9j/4AAQSkZJRg+abc=",
        });
        mask_by_key(&mut value);
        let expected = json!({
            "getSecrets": true, "tokenCount": 3, "token": MASK, "secretPath": "/etc/taskcluster/key",
            "credentials": {"clientId": MASK, "list": [MASK, 1, null]}, "plain": "shown",
            "windowsSecret": "C:\\keys\\one", "base64Token": MASK,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_text_is_cut_between_characters_and_never_inside_a_mask() {
        assert_eq!(cut("héllo", 5, "…"), "héllo");
        assert_eq!(cut("héllo wörld", 5, "…"), "héllo…");
        assert_eq!(fit("héllo wörld", 5, "…"), "héll…");
        let text = "a (masked) b (masked)(masked) é";
        let starts: Vec<usize> = text.match_indices(MASK).map(|(start, _)| start).collect();
        for longest in 0..40 {
            let shown = cut(text, longest, "…");
            assert!(shown.chars().count() <= longest + 1, "{shown}");
            let kept = shown.strip_suffix('…').unwrap_or(&shown);
            assert!(text.starts_with(kept));
            let inside = starts.iter().any(|start| *start < kept.len() && kept.len() < start + MASK.len());
            assert!(!inside, "{shown}");
        }
    }
}
