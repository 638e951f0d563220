//! Finds secrets in a log that are there with escapes, or in part.

use test_support::secrets::Secrets;

/// Shorter halves may be the beginning of another word.
const SHORTEST_HALF: usize = 14;

/// The secrets that a runner has printed, whole or their first half, as they are or with escapes: a line each.
pub(crate) fn leaks(secrets: &Secrets, printed: &[u8]) -> String {
    let halves = secrets.0.iter().filter_map(|(what, secret)| {
        let half = secret.get(..secret.len() / 2).filter(|half| half.len() >= SHORTEST_HALF)?;
        Some((format!("half of {what}"), half.to_owned()))
    });
    let halves = Secrets(halves.collect());
    let plain = unescaped(printed);
    [secrets, &halves].iter().flat_map(|secrets| [secrets.leaks(printed), secrets.leaks(&plain)]).collect()
}

/// The text with `\u0061` escapes decoded, regardless of how often the backslash was escaped.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::new(), text);
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (before, escape) = rest.split_at(at);
        plain.extend_from_slice(before);
        let slashes = escape.iter().take_while(|byte| **byte == b'\\').count();
        let code = escape.get(slashes..slashes + 5).filter(|code| code.starts_with(b"u"));
        let code = code.and_then(|code| std::str::from_utf8(&code[1..]).ok());
        let letter = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        plain.extend(letter);
        let read = if letter.is_some() { slashes + 5 } else { 1 };
        rest = escape.get(read..).unwrap_or_default();
    }
    plain.extend_from_slice(rest);
    plain
}
