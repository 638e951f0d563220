//! Editing gdm's file: everything but two keys is preserved, a second edit changes nothing, and the edit can be undone.

use start_worker::host::autologin::gdm::{MARK, clear, set, user};
use start_worker::host::autologin::keyfile::first_fault;
use start_worker::host::autologin::name::UserName;
use test_support::keyfile;

const KEYS: [&[u8]; 2] = [b"AutomaticLoginEnable", b"AutomaticLogin"];

/// The first line is the user's name, the rest is the file.
pub fn check(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (name, file) = data.split_at(end);
    let file = file.get(1..).unwrap_or_default();
    let Ok(name) = UserName::parse(&String::from_utf8_lossy(name)) else { return };
    let set_once = set(file, &name);
    assert_eq!(set(&set_once, &name), set_once, "set twice");
    let cleared = clear(file);
    assert_eq!(clear(&cleared), cleared, "cleared twice");
    let before = keyfile::parse(file);
    assert_eq!(first_fault(file).is_none(), before.is_some());
    // A file that gdm refuses is not edited.
    let Some(before) = before else { return };
    let after = keyfile::parse(&set_once).unwrap();
    assert_eq!(after[&b"daemon"[..]][KEYS[0]], b"true");
    assert_eq!(after[&b"daemon"[..]][KEYS[1]], name.as_str().as_bytes());
    assert_eq!(user(&set_once).as_deref(), Some(name.as_str()));
    assert_eq!(but_ours(&after), but_ours(&before));
    let after = keyfile::parse(&cleared).unwrap();
    assert_eq!(user(&cleared), None);
    assert_eq!(but_ours(&after), but_ours(&before));
    let had_ours =
        before.get(&b"daemon"[..]).is_some_and(|keys| KEYS.iter().any(|key| keys.contains_key(*key)));
    if !had_ours && !file.windows(MARK.len()).any(|part| part == MARK.as_bytes()) {
        assert_eq!(clear(&set_once), file, "set and cleared");
    }
}

/// All but our keys, and sections without keys.
fn but_ours(file: &keyfile::File) -> keyfile::File {
    let mut file = file.clone();
    if let Some(keys) = file.get_mut(&b"daemon"[..]) {
        keys.retain(|key, _| !KEYS.contains(&&key[..]));
    }
    file.retain(|_, keys| !keys.is_empty());
    file
}
