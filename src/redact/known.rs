//! The secret values known to this process, and how long each one is remembered.

use std::borrow::Borrow;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::lives::{Lives, Starts};
use super::search::{Cut, Index, SHORTEST, Stored, beginning};
use super::{MASK, assigned_secrets, boundary_before, is_a_path};

/// Only the beginning of a longer text is searched; the rest is masked as a whole.
const MOST_TEXT: usize = 512 << 10;

/// Only the beginning of a longer secret is stored; the text after a match is masked with it.
const MOST_OF_A_SECRET: usize = 16 << 10;

/// Limits for the stored secrets. Of further ones only the first bytes are stored, and a line is masked from there to
/// its end.
const MOST_SECRETS: usize = 50_000;
const MOST_BYTES: usize = 8 << 20;

/// The number of bytes of a secret file that are examined line by line.
const MOST_LINES_OF_A_FILE: usize = 64 << 10;

/// In a secret file, longer lines without white space are keys and tokens rather than words.
const LONGEST_WORD: usize = 15;

/// Well-known names that are not masked even if a secret equals one of them.
const PUBLIC: &[&str] =
    &["start-worker", "generic-worker", "docker-worker", "worker-manager", "worker-runner", MASK];

/// The number of names of workers to remember: a runner has one.
const MOST_PUBLIC: usize = 64;

/// Maximum nesting depth of JSON in strings.
const JSON_IN_STRINGS: usize = 3;

/// The secret values known to this process: a second line of defence for everything that is logged or reported. Clones
/// share them.
///
/// A secret is remembered as long as its owner: the process, one of the last starts, or one of the last renewals of the
/// credentials. A process that starts and renews for months therefore does not accumulate secrets.
#[derive(Clone, Default)]
pub struct Secrets(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    secrets: BTreeMap<Key, Held>,
    /// Their total size in bytes.
    size: usize,
    /// The first bytes of the secrets that exceeded the limits.
    beginnings_only: BTreeMap<u64, Lives>,
    /// Values that are public even if a secret repeats them: the worker's own names.
    public: VecDeque<String>,
    starts: Starts,
    renewals: u32,
    /// The search index, until something changes.
    index: Option<Arc<Index>>,
}

#[derive(Clone)]
struct Key(Arc<SecretString>);

#[derive(Clone, Copy)]
struct Held {
    lives: Lives,
    is_cut: bool,
}

impl Secrets {
    /// Begins a start: secrets added from now on belong to it.
    pub fn begin_start(&self) {
        let mut known = self.known();
        let slot = known.starts.begin();
        known.end(Lives::of_start(slot));
    }

    /// Marks the start as successful: its secrets are remembered until another start succeeds.
    pub fn start_succeeded(&self) {
        self.known().starts.succeeded();
    }

    /// Adds a secret to mask.
    pub fn add(&self, secret: &str) {
        let mut known = self.known();
        let lives = known.starts.now();
        known.add(secret, lives);
    }

    /// Adds a secret that is masked for the lifetime of the process.
    pub fn add_for_good(&self, secret: &str) {
        self.known().add(secret, Lives::PROCESS);
    }

    /// Adds a value that is never masked, even if it contains a secret.
    pub fn allow(&self, public: &str) {
        let mut known = self.known();
        if known.public.iter().any(|other| other == public) {
            return;
        }
        if known.public.len() == MOST_PUBLIC {
            known.public.pop_front();
        }
        known.public.push_back(public.to_owned());
        let repeated: Vec<Key> =
            known.secrets.keys().filter(|key| public.contains(key.text())).cloned().collect();
        for key in repeated {
            known.forget(&key);
        }
    }

    /// Adds all strings in a secret value, except file paths.
    pub fn add_all(&self, value: &Value) {
        self.add_strings(value, JSON_IN_STRINGS);
    }

    fn add_strings(&self, value: &Value, depth: usize) {
        match value {
            Value::Object(object) => object.values().for_each(|value| self.add_strings(value, depth)),
            Value::Array(array) => array.iter().for_each(|value| self.add_strings(value, depth)),
            Value::String(text) if !is_a_path(text) => {
                self.add(text);
                if let (true, Some(depth)) = (text.trim_start().starts_with(['{', '[']), depth.checked_sub(1))
                    && let Ok(inner) = serde_json::from_str::<Value>(text)
                {
                    self.add_strings(&inner, depth);
                }
            }
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Adds a secret file: its whole content, and those of its lines that are keys or tokens, or that assign a value to
    /// a name of a secret. Its other lines may be anything, such as a script's.
    pub fn add_file(&self, text: &str) {
        if text.trim_start().starts_with(['{', '['])
            && let Ok(value) = serde_json::from_str::<Value>(text)
        {
            self.add_all(&value);
        }
        let mut known = self.known();
        let lives = known.starts.now();
        known.add_one(text.trim(), lives);
        let end = boundary_before(text, MOST_LINES_OF_A_FILE);
        for line in text.get(..end).unwrap_or_default().lines().map(str::trim) {
            let is_words = line.len() <= LONGEST_WORD || line.contains(char::is_whitespace);
            if !is_words && !line.starts_with("-----") && !is_a_path(line) {
                known.add(line, lives);
            }
            for value in assigned_secrets(line).filter(|value| !is_a_path(value)) {
                known.add(value, lives);
            }
        }
    }

    /// Adds credentials: the token, and the secret parts of the certificate.
    pub fn add_credentials(&self, token: &SecretString, certificate: Option<&SecretString>) {
        for secret in of_credentials(token, certificate) {
            self.add(secret.expose_secret());
        }
    }

    /// Adds credentials that replace others, and the secret for the next renewal. Those of some earlier renewals remain
    /// masked, too.
    pub fn add_renewed(&self, token: &SecretString, certificate: Option<&SecretString>, next: &SecretString) {
        let mut known = self.known();
        known.renewals = known.renewals.wrapping_add(1);
        let lives = Lives::of_renewal(known.renewals);
        known.end(lives);
        for secret in of_credentials(token, certificate).iter().chain([next]) {
            known.add(secret.expose_secret(), lives);
        }
    }

    /// Adds a value from a runner configuration: a secret, or a certificate that contains secrets.
    pub fn add_configured(&self, secret: &str) {
        for part in secrets_of_certificate(secret) {
            self.add_for_good(&part);
        }
        self.add_for_good(secret);
    }

    /// Masks all known secrets in a text, in every encoding. The beginning of a secret counts before `…`, which marks
    /// truncated text: code that truncates a text without knowing the secrets must add this mark.
    pub fn mask(&self, text: impl Into<String>) -> String {
        self.mask_where_cut(text.into(), Cut::AtMarks)
    }

    /// As [`Secrets::mask`], for a text that may have been truncated elsewhere: the beginning of a secret also counts
    /// at its end.
    pub fn mask_cut(&self, text: impl Into<String>) -> String {
        self.mask_where_cut(text.into(), Cut::AtTheEnd)
    }

    /// As [`Secrets::mask`], for lines each of which may have been truncated.
    pub fn mask_cut_lines(&self, text: impl Into<String>) -> String {
        self.mask_where_cut(text.into(), Cut::InLines)
    }

    fn mask_where_cut(&self, mut text: String, mut cut: Cut) -> String {
        let index = self.index();
        if index.is_empty() {
            return text;
        }
        let is_too_long = text.len() > MOST_TEXT;
        if is_too_long {
            text.truncate(boundary_before(&text, MOST_TEXT));
            cut = if cut == Cut::InLines { cut } else { Cut::AtTheEnd };
        }
        // The second pass finds secrets that consist of the text beside a mask and a part of the masked text.
        for _ in 0..2 {
            let spans = index.find(&text, cut);
            if spans.is_empty() {
                break;
            }
            text = without(&text, &spans);
        }
        if is_too_long {
            text.push_str(MASK);
        }
        text
    }

    /// Masks all strings and keys of a value.
    pub fn mask_strings(&self, value: &mut Value) {
        match value {
            Value::Object(object) => self.mask_object(object),
            Value::Array(array) => array.iter_mut().for_each(|value| self.mask_strings(value)),
            Value::String(text) => *text = self.mask(std::mem::take(text)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Masks all strings and keys of an object.
    pub fn mask_object(&self, object: &mut Map<String, Value>) {
        let masked = std::mem::take(object).into_iter().map(|(key, mut value)| {
            self.mask_strings(&mut value);
            (self.mask(key), value)
        });
        *object = masked.collect();
    }

    fn index(&self) -> Arc<Index> {
        let mut known = self.known();
        if let Some(index) = &known.index {
            return index.clone();
        }
        let stored = |(key, held): (&Key, &Held)| Stored { text: key.0.clone(), is_cut: held.is_cut };
        let sorted = known.secrets.iter().map(stored).collect();
        let index = Arc::new(Index::new(sorted, known.beginnings_only.keys().copied().collect()));
        known.index = Some(index.clone());
        index
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secrets").field(&self.known().secrets.len()).finish()
    }
}

impl Known {
    /// Adds a secret; also each of its lines, because they may be shown one by one, and the password in a URL.
    fn add(&mut self, secret: &str, lives: Lives) {
        self.add_one(secret, lives);
        let trimmed = secret.lines().map(str::trim);
        for line in
            trimmed.filter(|line| line.len() < secret.len() && !line.starts_with("-----") && !is_a_path(line))
        {
            self.add_one(line, lives);
        }
        if let Some(user) = user_of_url(secret) {
            let password = user.split_once(':').map_or(user, |(_, password)| password);
            for part in [user, password] {
                self.add_one(part, lives);
                self.add_one(&percent_decode_str(part).decode_utf8_lossy(), lives);
            }
        }
    }

    fn add_one(&mut self, secret: &str, lives: Lives) {
        let public = PUBLIC.iter().copied().chain(self.public.iter().map(String::as_str));
        let Some(beginning) = beginning(secret.as_bytes()) else { return };
        if secret.len() < SHORTEST || public.into_iter().any(|public| public.contains(secret)) {
            return;
        }
        let end = boundary_before(secret, MOST_OF_A_SECRET);
        let (text, is_cut) = (secret.get(..end).unwrap_or(secret), end < secret.len());
        if let Some(held) = self.secrets.get_mut(text) {
            let before = (held.lives, held.is_cut);
            held.lives.0 |= lives.0;
            held.is_cut |= is_cut;
            if before.1 != held.is_cut {
                self.index = None;
            }
            return;
        }
        self.index = None;
        if self.secrets.len() >= MOST_SECRETS || self.size + text.len() > MOST_BYTES {
            self.beginnings_only.entry(beginning).or_insert(Lives(0)).0 |= lives.0;
            return;
        }
        self.size += text.len();
        self.secrets.insert(Key(Arc::new(text.into())), Held { lives, is_cut });
    }

    /// Removes the secrets whose last owner has ended.
    fn end(&mut self, over: Lives) {
        let (before, only_before) = (self.secrets.len(), self.beginnings_only.len());
        let size = &mut self.size;
        self.secrets.retain(|key, held| {
            held.lives.0 &= !over.0;
            let stays = held.lives.0 != 0;
            *size -= if stays { 0 } else { key.text().len() };
            stays
        });
        self.beginnings_only.retain(|_, lives| {
            lives.0 &= !over.0;
            lives.0 != 0
        });
        if (self.secrets.len(), self.beginnings_only.len()) != (before, only_before) {
            self.index = None;
        }
    }

    fn forget(&mut self, key: &Key) {
        if self.secrets.remove(key).is_some() {
            self.size -= key.text().len();
            self.index = None;
        }
    }
}

impl Key {
    fn text(&self) -> &str {
        self.0.expose_secret()
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self.text()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text().cmp(other.text())
    }
}

/// Replaces each span of a text by a mask.
fn without(text: &str, spans: &[Range<usize>]) -> String {
    let (mut masked, mut end) = (String::with_capacity(text.len()), 0);
    for span in spans {
        masked.push_str(text.get(end..span.start).unwrap_or_default());
        masked.push_str(MASK);
        end = span.end;
    }
    masked.push_str(text.get(end..).unwrap_or_default());
    masked
}

fn of_credentials(token: &SecretString, certificate: Option<&SecretString>) -> Vec<SecretString> {
    let mut secrets = vec![token.clone()];
    let Some(certificate) = certificate else { return secrets };
    secrets.push(certificate.clone());
    secrets.extend(secrets_of_certificate(certificate.expose_secret()).into_iter().map(SecretString::from));
    secrets
}

fn secrets_of_certificate(certificate: &str) -> Vec<String> {
    let Ok(Value::Object(parts)) = serde_json::from_str(certificate) else { return Vec::new() };
    let strings = ["signature", "seed"].into_iter().filter_map(|part| parts.get(part)?.as_str());
    strings.filter(|text| !is_a_path(text)).map(str::to_owned).collect()
}

/// The user information of a URL, before its `@`.
fn user_of_url(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map(|(user, _)| user)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use serde_json::json;

    use super::*;

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
            "token=the-access-token {\\\"signature\\\":\\\"the-signature-1\\\"} hidden value 12345678 short",
        );
        assert_eq!(masked, "token=(masked) {\\\"signature\\\":\\\"(masked)\\\"} (masked) 12345678 short");
        assert!(!format!("{secrets:?}").contains("the-access-token"));
    }

    /// Writes a character as `ascii()` does.
    fn python(c: char) -> String {
        match u32::from(c) {
            code if c.is_ascii_graphic() && c != '\\' => char::from_u32(code).into_iter().collect(),
            code @ ..0x100 => format!("\\x{code:02x}"),
            code @ ..0x1_0000 => format!("\\u{code:04x}"),
            code => format!("\\U{code:08x}"),
        }
    }

    /// Writes a code unit as `escape()` does.
    fn javascript(unit: u16) -> String {
        match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            Ok(byte) => format!("%{byte:02X}"),
            Err(_) => format!("%u{unit:04X}"),
        }
    }

    /// The encodings of a secret, by name.
    #[expect(clippy::too_many_lines, clippy::format_collect, reason = "a table of strings")]
    fn forms(secret: &str) -> Vec<(&'static str, String)> {
        let json = |text: &str| Value::from(text).to_string();
        let inside = |quoted: String| quoted[1..quoted.len() - 1].to_owned();
        let units = |width: &str| -> String {
            let unit =
                |unit| if width == "upper" { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
            secret.encode_utf16().map(unit).collect()
        };
        let percent = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        let in_base64 = |before: &str| BASE64_STANDARD.encode(format!("{before}{secret} and more"));
        let once = inside(json(secret));
        vec![
            ("plain", secret.to_owned()),
            ("JSON", json(secret)),
            ("JSON in JSON", json(&json(secret))),
            ("JSON thrice", json(&json(&json(secret)))),
            ("JSON with slashes escaped", json(secret).replace('/', "\\/")),
            ("code units", units("lower")),
            ("upper case code units", units("upper")),
            ("code units in JSON", json(&units("lower"))),
            ("Rust", format!("{secret:?}")),
            ("Rust, escaped", secret.escape_default().to_string()),
            ("Rust in Rust", format!("{:?}", format!("{secret:?}"))),
            ("bytes", secret.as_bytes().escape_ascii().to_string()),
            ("characters", secret.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect()),
            ("Python", secret.chars().map(python).collect()),
            ("JavaScript's escape()", secret.encode_utf16().map(javascript).collect()),
            ("bytes in a list", format!("{:?}", secret.as_bytes())),
            ("bytes in a list, a line each", format!("{:#?}", secret.as_bytes())),
            ("Node's Buffer", json!({"type": "Buffer", "data": secret.as_bytes()}).to_string()),
            ("hex with colons", secret.bytes().map(|byte| format!("{byte:02X}:")).collect()),
            ("hex with spaces", secret.bytes().map(|byte| format!("{byte:02x} ")).collect()),
            ("hex in C", secret.bytes().map(|byte| format!("0x{byte:02x}, ")).collect()),
            ("quoted-printable", secret.bytes().map(|byte| format!("={byte:02X}")).collect()),
            ("octal", secret.bytes().map(|byte| format!("\\{byte:03o}")).collect()),
            ("URL", percent.clone()),
            ("URL, lower case", secret.bytes().map(|byte| format!("%{byte:02x}")).collect()),
            ("URL twice", utf8_percent_encode(&percent, NON_ALPHANUMERIC).to_string()),
            ("form", percent.replace("%20", "+")),
            ("JSON in a URL", utf8_percent_encode(&once, NON_ALPHANUMERIC).to_string()),
            (
                "HTML",
                secret
                    .replace('&', "&amp;")
                    .replace('"', "&quot;")
                    .replace('\'', "&#x27;")
                    .replace('<', "&lt;"),
            ),
            ("base64", BASE64_STANDARD.encode(secret)),
            ("base64 without padding", BASE64_URL_SAFE_NO_PAD.encode(secret)),
            ("base64 one byte on", in_base64("1")),
            ("base64 two bytes on", in_base64("12")),
            ("base64 three bytes on", in_base64("123")),
            ("base64 of JSON", BASE64_STANDARD.encode(json(secret))),
            ("base64 twice", BASE64_STANDARD.encode(BASE64_STANDARD.encode(secret))),
            ("base64 in JSON", json(&BASE64_STANDARD.encode(secret)).replace('/', "\\/")),
            (
                "base64 in a URL",
                utf8_percent_encode(&BASE64_STANDARD.encode(secret), NON_ALPHANUMERIC).to_string(),
            ),
            ("base64 after a word", format!("token_{}", BASE64_STANDARD.encode(secret))),
            (
                "base64 in lines",
                BASE64_STANDARD
                    .encode(secret)
                    .as_bytes()
                    .chunks(8)
                    .map(|line| format!("{}\n", String::from_utf8_lossy(line)))
                    .collect(),
            ),
            ("hex", hex.clone()),
            ("upper case hex", hex.to_uppercase()),
            ("hex after a digit", format!("f{hex}")),
        ]
    }

    #[test]
    fn a_secret_is_masked_in_every_form() {
        for secret in [
            "hunter22",
            "the-access-token",
            "pä\"ss/wö\\rd 🔑 <&'+%41>",
            "\\\\\"\\u0041\\n%2525",
            "tab\there\r\nand\u{1b}[31m\u{7f}\u{85}",
            "a+b/c==&d=e f",
        ] {
            let secrets = Secrets::default();
            secrets.add(secret);
            for (name, form) in forms(secret) {
                for (before, after) in
                    [("", ""), ("token=", " (see above)"), ("\\", "\\"), ("%4", "1"), ("x: \"", "\",")]
                {
                    let text = format!("{before}{form}{after}");
                    let masked = secrets.mask(text.clone());
                    assert!(masked.contains(MASK), "{name}: {text:?}");
                    let left = masked.replace(MASK, "").len();
                    assert!(left <= before.len() + after.len() + 45, "{name}: {text:?} became {masked:?}");
                    // The rest of the encoding is shorter than a secret.
                    let whole = name.starts_with("base64")
                        || name.contains("hex")
                        || name.contains("list")
                        || name.contains("Buffer")
                        || left <= before.len() + after.len() + 20;
                    assert!(whole, "{name}: {text:?} became {masked:?}");
                }
            }
            let plain = "nothing to hide: aGVsbG8gd29ybGQhIGhlbGxv %41 \\u0041 deadbeefdeadbeef";
            assert_eq!(secrets.mask(plain), plain);
        }
    }

    #[test]
    fn lines_of_a_secret_are_secrets_and_so_is_the_password_in_a_url() {
        let secrets = Secrets::default();
        secrets.add(
            "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n",
        );
        secrets.add("http://proxy-user:p%40ss-w0rd@proxy.example.com:3128/");
        let text =
            "-----BEGIN PRIVATE KEY----- MIIEvQIBADANBgkq then hkiG9w0BAQEFAASC; p%40ss-w0rd p@ss-w0rd";
        assert_eq!(
            secrets.mask(text),
            "-----BEGIN PRIVATE KEY----- (masked) then (masked); (masked) (masked)"
        );
    }

    #[test]
    fn of_a_file_from_a_secret_the_keys_and_tokens_are_masked_and_words_are_not() {
        let secrets = Secrets::default();
        secrets.add_file("an-access-token-in-a-file\n");
        secrets.add_file(
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\nQyNTUxOQAAACBh4Q2pL7xk\n",
        );
        secrets.add_file(
            "[default]\naws_secret_access_key = wJalrXUtnFEMI\nregion = us-east-1\nAPI_TOKEN='quo-ted-1'\n",
        );
        secrets.add_file("machine example.com login deploy password hunter22-3\n#!/bin/bash\nlocalhost\n");
        secrets.add_file(r#"{"user": "deploy-bot-7", "nested": ["in-a-list"]}"#);
        secrets.add_file("a,b\nhttps://bot:p4ssw0rd-9@example.com/repository\n");
        for secret in [
            "an-access-token-in-a-file",
            "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU",
            "QyNTUxOQAAACBh4Q2pL7xk",
            "wJalrXUtnFEMI",
            "quo-ted-1",
            "hunter22-3",
            "deploy-bot-7",
            "in-a-list",
            "p4ssw0rd-9",
        ] {
            assert_eq!(secrets.mask(format!("it is {secret}.")), "it is (masked).", "{secret}");
        }
        let words = "[default] region us-east-1 #!/bin/bash localhost aws_secret_access_key password";
        assert_eq!(secrets.mask(words), words);
    }

    #[test]
    fn the_longest_secret_wins_and_secrets_that_overlap_are_masked_together() {
        let secrets = Secrets::default();
        for secret in ["deploybot", "deploybot-PASS", "abcdefgh", "efghijkl"] {
            secrets.add(secret);
        }
        assert_eq!(secrets.mask("deploybot-PASS deploybot abcdefghijkl"), "(masked) (masked) (masked)");
        secrets.add(")-and-more");
        assert!(!secrets.mask("deploybot-and-more").contains("-and-more"));
    }

    #[test]
    fn a_text_that_was_cut_does_not_end_with_the_beginning_of_a_secret() {
        let secrets = Secrets::default();
        secrets.add("the-access-token");
        assert_eq!(secrets.mask("it is the-access-toke"), "it is the-access-toke");
        assert_eq!(secrets.mask_cut("it is the-access-toke"), "it is (masked)");
        assert_eq!(secrets.mask("the-access-t… and \"the-acce\"…"), "(masked)… and \"(masked)\"…");
        assert_eq!(secrets.mask_cut_lines("a the-acce\nb the-access-t\nc"), "a (masked)\nb (masked)\nc");
        let long = "a long secret. ".repeat(20);
        secrets.add(&long);
        assert_eq!(
            secrets.mask(format!("as {}…", &long[..100])),
            "as (masked)…",
            "most of it is as good as all of it"
        );
    }

    #[test]
    fn what_is_too_much_to_look_at_is_masked() {
        let secrets = Secrets::default();
        for number in 0..4000 {
            secrets.add(&format!("secret-value-number-{number}"));
        }
        let text = "nothing to see ".repeat(300_000);
        let masked = secrets.mask(text.clone() + "secret-value-number-7");
        assert!(masked.len() <= MOST_TEXT + MASK.len() && masked.ends_with(MASK));
        assert!(text.starts_with(masked.strip_suffix(MASK).unwrap()));
        // The text is nearly a secret at every position and length.
        secrets.add(&format!("{}b", "a".repeat(8000)));
        let masked = secrets.mask("a".repeat(400_000));
        assert!(masked.len() < 400_000 && masked.contains(MASK));
        let long = "x y ".repeat(10_000);
        secrets.add(&long);
        assert_eq!(secrets.mask(format!("it is {long}")), "it is (masked)");
    }

    #[test]
    fn of_more_secrets_than_there_is_room_for_the_line_is_masked() {
        let secrets = Secrets::default();
        secrets.begin_start();
        for number in 0..MOST_SECRETS + 10 {
            secrets.add(&format!("{number:08}-secret"));
        }
        let last = format!("{:08}-secret", MOST_SECRETS + 5);
        assert_eq!(secrets.mask(format!("a {last} b\nc")), "a (masked)\nc");
        assert_eq!(secrets.mask("a 00000007-secret b"), "a (masked) b");
        assert!(secrets.known().secrets.len() <= MOST_SECRETS);
        for _ in 0..Lives::STARTS {
            secrets.begin_start();
        }
        assert_eq!(secrets.mask(last.clone()), last);
    }

    #[test]
    fn secrets_of_starts_that_fail_do_not_pile_up_and_those_of_the_worker_that_runs_stay() {
        let secrets = Secrets::default();
        secrets.add("known before any start");
        secrets.begin_start();
        secrets.add("the-secret-of-the-worker");
        secrets.add("the static secret");
        secrets.start_succeeded();
        for number in 0..100 {
            secrets.begin_start();
            secrets.add("the static secret");
            secrets.add(&format!("secret-of-start-{number}"));
        }
        for shown in
            ["known before any start", "the-secret-of-the-worker", "the static secret", "secret-of-start-99"]
        {
            assert_eq!(secrets.mask(shown), MASK, "{shown}");
        }
        assert!(secrets.known().secrets.len() <= 3 + usize::from(Lives::STARTS));
        secrets.start_succeeded();
        for number in 0..4 {
            secrets.begin_start();
            secrets.add(&format!("secret-of-restart-{number}"));
            secrets.start_succeeded();
        }
        assert_eq!(secrets.mask("the-secret-of-the-worker"), "the-secret-of-the-worker");
    }

    #[test]
    fn many_secrets_are_added_one_by_one() {
        let secrets = Secrets::default();
        for number in 0..20_000 {
            secrets.add(&format!("value {number} of a secret"));
        }
        assert_eq!(
            secrets.mask("value 19999 of a secret, value 20000 of a secret"),
            "(masked), value 20000 of a secret"
        );
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
        for number in 100 - usize::try_from(Lives::RENEWALS).unwrap()..100 {
            for name in ["token", "signature", "next"] {
                assert_eq!(secrets.mask(format!("{name}-of-renewal-{number}")), MASK, "{number}");
            }
        }
        assert_eq!(secrets.mask("the static secret".to_owned()), MASK);
        let known = secrets.known();
        assert!(known.secrets.len() <= 1 + 8 * 4);
    }
}
