//! Masks secrets in what is shown: which keys name one, which values are known to be one, and what stands in their place.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// Stands where a secret was.
pub const MASK: &str = "(masked)";

/// Shorter strings are no secrets worth the name, and would blot out words of the log.
const SHORTEST: usize = 8;

/// Of so many renewals the credentials are known: older ones have ended, and must not fill a process that lives for months.
const RENEWALS: usize = 8;

/// The secret values that are known to this process: a second line of defence for whatever is logged or reported.
/// Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
struct Known {
    secrets: Vec<SecretString>,
    /// Those of the last renewals, oldest first.
    renewed: VecDeque<Vec<SecretString>>,
    /// What everybody may know, although a secret repeats it: the worker's own names.
    public: Vec<String>,
}

impl Secrets {
    /// From now on this is masked.
    pub fn add(&self, secret: &str) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let new = known.new_forms(secret);
        known.secrets.extend(new);
    }

    /// This is never masked, also where a secret is a part of it. To be said before secrets are added.
    pub fn allow(&self, public: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).public.push(public.to_owned());
    }

    /// All strings in a value that came from a secret, but for paths of files.
    pub fn add_all(&self, value: &Value) {
        match value {
            Value::Object(object) => object.values().for_each(|value| self.add_all(value)),
            Value::Array(array) => array.iter().for_each(|value| self.add_all(value)),
            Value::String(text) if !is_a_path(text) => self.add(text),
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Credentials: the token, and of the certificate what is secret in it, for it is also shown with its quotes
    /// escaped.
    pub fn add_credentials(&self, token: &SecretString, certificate: Option<&SecretString>) {
        for secret in of_credentials(token, certificate) {
            self.add(secret.expose_secret());
        }
    }

    /// Credentials that take the place of others, and the secret for the next renewal. Those of some renewals before stay
    /// masked, too.
    pub fn add_renewed(&self, token: &SecretString, certificate: Option<&SecretString>, next: &SecretString) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut secrets = of_credentials(token, certificate);
        secrets.push(next.clone());
        let new = secrets.iter().flat_map(|secret| known.new_forms(secret.expose_secret())).collect();
        if known.renewed.len() == RENEWALS {
            known.renewed.pop_front();
        }
        known.renewed.push_back(new);
    }

    /// The value without them, in all its strings.
    pub fn mask_strings(&self, value: &mut Value) {
        match value {
            Value::Object(object) => object.values_mut().for_each(|value| self.mask_strings(value)),
            Value::Array(array) => array.iter_mut().for_each(|value| self.mask_strings(value)),
            Value::String(text) => *text = self.mask(std::mem::take(text)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// The text without them.
    pub fn mask(&self, mut text: String) -> String {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for secret in
            known.secrets.iter().chain(known.renewed.iter().flatten()).map(ExposeSecret::expose_secret)
        {
            if text.contains(secret) {
                text = text.replace(secret, MASK);
            }
        }
        text
    }
}

impl Known {
    /// How a secret may be written, as far as that is not known yet.
    fn new_forms(&self, secret: &str) -> Vec<SecretString> {
        if secret.len() < SHORTEST || self.public.iter().any(|public| public.contains(secret)) {
            return Vec::new();
        }
        let is_new = |form: &String| !self.secrets.iter().any(|old| old.expose_secret() == form);
        written_forms(secret).into_iter().filter(is_new).map(SecretString::from).collect()
    }
}

/// What is secret in credentials.
fn of_credentials(token: &SecretString, certificate: Option<&SecretString>) -> Vec<SecretString> {
    let mut secrets = vec![token.clone()];
    let Some(certificate) = certificate else { return secrets };
    secrets.push(certificate.clone());
    if let Ok(Value::Object(parts)) = serde_json::from_str(certificate.expose_secret()) {
        let strings = ["signature", "seed"].into_iter().filter_map(|part| parts.get(part)?.as_str());
        secrets.extend(strings.filter(|text| !is_a_path(text)).map(SecretString::from));
    }
    secrets
}

/// The text, and how it looks within quotes, in Rust's way, in JSON's, and in JSON within JSON.
fn written_forms(text: &str) -> Vec<String> {
    let inside = |quoted: String| {
        quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(&quoted).to_owned()
    };
    let json = |text: &str| inside(Value::from(text).to_string());
    let once = json(text);
    let mut forms = vec![text.to_owned(), inside(format!("{text:?}")), json(&once), once];
    forms.sort_unstable();
    forms.dedup();
    // The longest first: another may be a part of it.
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    forms
}

/// Whether a key says that its value is a secret: one of its words is `secret`, `token`, `password`, `passwd` or
/// `credential` (or their plurals), or two of them are `private` and `key`. Words are told apart by case and by
/// whatever is neither letter nor digit: `privateKey`, `private_key` and `PRIVATE-KEY` are the same two.
pub fn names_a_secret(key: &str) -> bool {
    let words = words(key);
    let has =
        |wanted: &str| words.iter().any(|word| word == wanted || word.strip_suffix('s') == Some(wanted));
    ["secret", "token", "password", "passwd", "credential"].into_iter().any(has)
        || (has("private") && has("key"))
}

/// Replaces the string values whose key, or the key of something around them, [names a secret](names_a_secret).
/// Numbers, booleans and file paths stay.
pub fn mask_by_key(value: &mut Value) {
    mask(value, false);
}

/// Replaces the strings that hold one of these secrets.
pub fn mask_known(value: &mut Value, known: &[&str]) {
    match value {
        Value::Object(object) => object.values_mut().for_each(|value| mask_known(value, known)),
        Value::Array(array) => array.iter_mut().for_each(|value| mask_known(value, known)),
        Value::String(text) if known.iter().any(|secret| text.contains(secret)) => MASK.clone_into(text),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
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

/// Base64 may begin with a slash too. It hardly ever goes on in small letters only up to a second one, which is how
/// all the folders directly below the root are called.
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
        // `APIToken`: the last capital of a run belongs to the word that follows.
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
    fn secrets_are_masked_also_where_they_are_quoted() {
        let secrets = Secrets::default();
        let secret = "-----BEGIN KEY-----\npa\"ss\"word\n";
        secrets.add(secret);
        let json = Value::from(secret).to_string();
        for text in [secret.to_owned(), format!("{secret:?}"), json.clone(), Value::from(json).to_string()] {
            let masked = secrets.mask(text.clone());
            assert!(!masked.contains("word") && masked.contains(MASK), "{text} became {masked}");
        }
        let mut value = json!({"a": [secret, 12_345_678]});
        secrets.add("12345678");
        secrets.mask_strings(&mut value);
        assert_eq!(value, json!({"a": [MASK, 12_345_678]}));
    }

    #[test]
    fn the_workers_own_names_and_paths_are_shown_although_a_secret_repeats_them() {
        let secrets = Secrets::default();
        secrets.allow("releng-hardware/linux-perf");
        secrets.add_all(
            &json!({"workerType": "linux-perf", "key": "/etc/taskcluster/key", "x": "linux-perf-2"}),
        );
        let masked = secrets.mask("releng-hardware/linux-perf /etc/taskcluster/key linux-perf-2".to_owned());
        assert_eq!(masked, "releng-hardware/linux-perf /etc/taskcluster/key (masked)");
    }

    #[test]
    fn known_secrets_are_masked_wherever_they_stand() {
        let secrets = Secrets::default();
        let shared = secrets.clone();
        secrets.add_credentials(
            &"the-access-token".into(),
            Some(&r#"{"version":1,"seed":"the-seed-1","signature":"the-signature-1"}"#.into()),
        );
        secrets.add_all(&json!({"a": ["hidden value", 12_345_678, {"b": "short"}]}));
        let masked = shared.mask(
            "token=the-access-token {\\\"signature\\\":\\\"the-signature-1\\\"} hidden value 12345678 short"
                .into(),
        );
        assert_eq!(masked, "token=(masked) {\\\"signature\\\":\\\"(masked)\\\"} (masked) 12345678 short");
        assert!(!format!("{secrets:?}").contains("the-access-token"));
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
    fn secrets_of_many_renewals_do_not_pile_up_and_the_last_ones_are_masked() {
        let secrets = Secrets::default();
        secrets.add("the static secret");
        for number in 0..100 {
            let secret = |name: &str| SecretString::from(format!("{name}-of-renewal-{number}"));
            let certificate = format!(r#"{{"signature":"signature-of-renewal-{number}"}}"#).into();
            secrets.add_renewed(&secret("token"), Some(&certificate), &secret("next"));
        }
        for number in 100 - RENEWALS..100 {
            for name in ["token", "signature", "next"] {
                assert_eq!(secrets.mask(format!("{name}-of-renewal-{number}")), MASK, "{number}");
            }
        }
        assert_eq!(secrets.mask("the static secret".to_owned()), MASK);
        let known = secrets.0.read().unwrap();
        assert!(known.renewed.iter().flatten().count() <= RENEWALS * 4 * 4);
        assert_eq!(known.renewed.len(), RENEWALS);
    }
}
