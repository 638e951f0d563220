//! A second parser of key files, written after `GLib`'s rules and independent of ours: it shows what gdm reads.

use std::collections::BTreeMap;

/// Section → key → value; `None`: `GLib` refuses the file.
pub type File = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

pub fn parse(bytes: &[u8]) -> Option<File> {
    let mut file = File::new();
    let mut section: Option<Vec<u8>> = None;
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut line = rest;
        if let Some(newline) = rest.iter().position(|byte| *byte == b'\n') {
            line = &rest[..newline];
            rest = &rest[newline + 1..];
            if line.ends_with(b"\r") {
                line = &line[..line.len() - 1];
            }
        } else {
            rest = b"";
        }
        while line.first().is_some_and(|byte| is_space(*byte)) {
            line = &line[1..];
        }
        if line.contains(&0) {
            return None;
        }
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        if let Some(name) = header(line) {
            let good =
                !name.is_empty() && name.iter().all(|byte| *byte != b'[' && *byte >= 0x20 && *byte != 0x7f);
            if !good {
                return None;
            }
            section = Some(name.to_vec());
            file.entry(name.to_vec()).or_default();
            continue;
        }
        let equals = line.iter().position(|byte| *byte == b'=')?;
        let mut key = &line[..equals];
        while key.last().is_some_and(|byte| is_space(*byte)) {
            key = &key[..key.len() - 1];
        }
        let mut value = &line[equals + 1..];
        while value.first().is_some_and(|byte| is_space(*byte)) {
            value = &value[1..];
        }
        if key.is_empty() || !is_key_name(key) {
            return None;
        }
        file.get_mut(section.as_ref()?)?.insert(key.to_vec(), value.to_vec());
    }
    Some(file)
}

/// `g_ascii_isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0c)
}

fn header(line: &[u8]) -> Option<&[u8]> {
    if line[0] != b'[' {
        return None;
    }
    let close = line.iter().position(|byte| *byte == b']')?;
    line[close + 1..].iter().all(|byte| *byte == b' ' || *byte == b'\t').then(|| &line[1..close])
}

fn is_key_name(key: &[u8]) -> bool {
    let plain = key.iter().take_while(|byte| !matches!(byte, b'[' | b']')).count();
    if plain == key.len() {
        return true;
    }
    if plain == 0 || key[plain] == b']' || key[plain - 1] == b' ' || !key.ends_with(b"]") {
        return false;
    }
    let locale = &key[plain + 1..key.len() - 1];
    locale.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte >= 0x80 || b"-_.@".contains(byte))
}
