//! The server's side of Hawk: parses the header, and computes the expected `mac` and `hash`. An independent
//! implementation, after <https://github.com/mozilla/hawk>, so that it shares no bug of the client's library.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac};

/// `@hapi/hawk` refuses longer headers.
const MAX_LENGTH: usize = 4096;

/// The attributes of an `Authorization: Hawk …`.
#[derive(Default)]
pub(super) struct Header {
    pub id: String,
    pub ts: String,
    pub nonce: String,
    pub mac: String,
    pub hash: Option<String>,
    pub ext: Option<String>,
    app: Option<String>,
    dlg: Option<String>,
}

/// The signed values beside the header's own attributes.
pub struct Target<'a> {
    pub method: &'a str,
    /// The path with its query, as it was sent.
    pub resource: &'a str,
    pub host: &'a str,
    pub port: u16,
}

impl Header {
    /// Parses a header like `@hapi/hawk`; the error is its message.
    pub(super) fn parse(value: &str) -> Result<Self, String> {
        if value.len() > MAX_LENGTH {
            return Err("Bad Request: Header length too long".to_owned());
        }
        let (scheme, attributes) = value.split_once(' ').unwrap_or((value, ""));
        if !scheme.eq_ignore_ascii_case("hawk") {
            return Err("Unauthorized: Unauthorized".to_owned());
        }
        let mut header = Self::default();
        let mut rest = attributes.trim();
        if rest.is_empty() {
            return Err("Bad Request: Invalid header syntax".to_owned());
        }
        while !rest.is_empty() {
            let bad = || "Bad Request: Bad header format".to_owned();
            let (key, after) = rest.split_once("=\"").ok_or_else(bad)?;
            let (value, after) = after.split_once('"').ok_or_else(bad)?;
            header.set(key, value)?;
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(more) => more.trim_start(),
                None if after.is_empty() => after,
                None => return Err(bad()),
            };
        }
        if [&header.id, &header.ts, &header.nonce, &header.mac].iter().any(|value| value.is_empty()) {
            return Err("Bad Request: Missing attributes".to_owned());
        }
        Ok(header)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        if value.is_empty() || !value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'\\') {
            return Err(format!("Bad Request: Bad attribute value: {key}"));
        }
        let value = value.to_owned();
        let before = match key {
            "id" => std::mem::replace(&mut self.id, value),
            "ts" => std::mem::replace(&mut self.ts, value),
            "nonce" => std::mem::replace(&mut self.nonce, value),
            "mac" => std::mem::replace(&mut self.mac, value),
            "hash" => self.hash.replace(value).unwrap_or_default(),
            "ext" => self.ext.replace(value).unwrap_or_default(),
            "app" => self.app.replace(value).unwrap_or_default(),
            "dlg" => self.dlg.replace(value).unwrap_or_default(),
            _ => return Err(format!("Bad Request: Unknown attribute: {key}")),
        };
        if before.is_empty() { Ok(()) } else { Err(format!("Bad Request: Duplicate attribute: {key}")) }
    }

    /// The expected `mac` of a header signed with this key.
    pub(super) fn expected_mac(&self, key: &str, target: &Target<'_>) -> String {
        let Self { ts, nonce, .. } = self;
        let Target { resource, port, .. } = target;
        let method = target.method.to_uppercase();
        let host = target.host.to_lowercase();
        let hash = self.hash.as_deref().unwrap_or_default();
        let ext = self.ext.as_deref().unwrap_or_default();
        let mut text =
            format!("hawk.1.header\n{ts}\n{nonce}\n{method}\n{resource}\n{host}\n{port}\n{hash}\n{ext}\n");
        if let Some(app) = &self.app {
            let dlg = self.dlg.as_deref().unwrap_or_default();
            text = format!("{text}{app}\n{dlg}\n");
        }
        hmac_sha256(key, &text)
    }
}

/// The expected `hash` of this payload.
pub(super) fn payload_hash(content_type: &str, payload: &[u8]) -> String {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_lowercase();
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(format!("hawk.1.payload\n{kind}\n").as_bytes());
    context.update(payload);
    context.update(b"\n");
    STANDARD.encode(context.finish())
}

/// HMAC with SHA-256, in base64.
pub(super) fn hmac_sha256(key: &str, text: &str) -> String {
    STANDARD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), text.as_bytes()))
}
