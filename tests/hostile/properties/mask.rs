//! Masking: for any text and any secrets, no secret is left in any form, cut or not; a text without secrets is
//! unchanged.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use start_worker::redact::{MASK, Secrets, cut};

/// Shorter ones are none.
const SHORTEST: usize = 8;

/// Length of input that is checked. Text that takes too long is masked as a whole, which another test covers.
const LONGEST: usize = 1000;

/// As many are taken from one input.
const MOST: usize = 12;

/// Reads secrets, one a line, then after an empty line a text in which `{0}` stands for the first secret unchanged,
/// `{1j}` for the second in JSON, and so on.
pub fn check(data: &[u8]) {
    let input = String::from_utf8_lossy(data.get(..LONGEST).unwrap_or(data));
    let (listed, template) = input.split_once("\n\n").unwrap_or(("", &input));
    let listed: Vec<&str> = listed.lines().take(MOST).filter(|secret| is_one(secret)).collect();
    let secrets = Secrets::default();
    for secret in &listed {
        secrets.add(secret);
    }
    let (text, planted) = planted(template, &listed);
    let masked = secrets.mask(text.as_str());
    for secret in &listed {
        assert!(!masked.contains(secret), "{secret:?} is left: {text:?} became {masked:?}");
        for longest in [0, 1, 5, 9, 17, 60, 200] {
            let shown = cut(&masked, longest, "…");
            assert!(!shown.contains(secret));
            let kept = if shown == masked { &*shown } else { shown.strip_suffix('…').unwrap() };
            let cuts = |mask: usize| mask < kept.len() && kept.len() < mask + MASK.len();
            assert!(masked.starts_with(kept), "{shown:?}");
            assert!(!masked.match_indices(MASK).any(|(mask, _)| cuts(mask)), "{shown:?}");
        }
    }
    for (secret, form) in planted {
        assert!(!masked.contains(&form), "{secret:?} is left as {form:?}: {text:?} became {masked:?}");
    }
    let plain = template.replace(|c: char| !c.is_ascii_lowercase() && c != ' ', " ");
    if listed.iter().all(|secret| secret.contains(|c: char| c.is_ascii_digit() || c == '-')) {
        assert_eq!(secrets.mask(plain.as_str()), plain, "nothing was to be masked");
    }
    // A value is masked as a text is, and stays JSON.
    let mut value = serde_json::json!({ text.as_str(): [text.as_str(), 1, null] });
    secrets.mask_strings(&mut value);
    assert_eq!(value, serde_json::json!({ masked.as_str(): [masked.as_str(), 1, null] }));
}

/// The characters of a mask or a cut mark could form a secret together with adjacent text. Real secrets do not have
/// that form.
fn is_one(secret: &str) -> bool {
    secret.len() >= SHORTEST
        && secret.trim() == secret
        && !secret.contains(['(', ')', '…'])
        && !MASK.contains(secret)
        && !["start-worker", "generic-worker", "docker-worker", "worker-manager", "worker-runner"]
            .iter()
            .any(|name| name.contains(secret))
}

/// The text with secrets in place of their numbers, and in which form each is in it.
fn planted<'s>(template: &str, secrets: &[&'s str]) -> (String, Vec<(&'s str, String)>) {
    let (mut text, mut planted) = (String::new(), Vec::new());
    let mut parts = template.split('{');
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let name = part.split_once('}').and_then(|(name, rest)| Some((name.get(..1)?, name.get(1..)?, rest)));
        let known = name.and_then(|(number, form, rest)| {
            let secret = *secrets.get(number.parse::<usize>().ok()?)?;
            Some((secret, written(secret, form)?, rest))
        });
        if let Some((secret, form, rest)) = known {
            text.push_str(&form);
            text.push_str(rest);
            planted.push((secret, form));
        } else {
            text.push('{');
            text.push_str(part);
        }
    }
    (text, planted)
}

/// A secret in the form with this name.
#[expect(clippy::format_collect, reason = "short texts")]
fn written(secret: &str, form: &str) -> Option<String> {
    let json = |text: &str| {
        let quoted = serde_json::Value::from(text).to_string();
        quoted[1..quoted.len() - 1].to_owned()
    };
    let each = |write: fn(u8) -> String| secret.bytes().map(write).collect::<String>();
    Some(match form {
        "" => secret.to_owned(),
        "j" => json(secret),
        "jj" => json(&json(secret)),
        "js" => json(secret).replace('/', "\\/"),
        "u" => secret.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect(),
        "U" => secret.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect(),
        "d" => format!("{secret:?}"),
        "e" => secret.escape_default().to_string(),
        "p" => each(|byte| format!("%{byte:02X}")),
        "q" => each(|byte| {
            if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02x}") }
        }),
        "x" => each(|byte| format!("{byte:02x}")),
        "X" => each(|byte| format!("{byte:02X}")),
        "b" => BASE64_STANDARD.encode(secret),
        "b1" => BASE64_STANDARD.encode(format!("-{secret}-")),
        "b2" => BASE64_STANDARD.encode(format!("--{secret}--")),
        "w" => BASE64_URL_SAFE_NO_PAD.encode(secret),
        "bj" => BASE64_STANDARD.encode(json(secret)),
        _ => return None,
    })
}
