//! gdm's `custom.conf`, which is shared with the administrators: edited, never rewritten. PURE: bytes in, bytes out.
//!
//! [`set`] and [`clear`] change only the lines of two keys in the section `[daemon]`, and preserve every other byte. If
//! there is no such section, one is added at the end, below a comment by which [`clear`] recognizes it. Setting is
//! idempotent; if no such key was active before, clearing restores the file byte by byte. (The one exception is a file
//! that already contains our comment: the section after it is taken for ours.)

use super::keyfile::{Kind, Line, bytes, kind, lines, value};
use super::name::UserName;

const SECTION: &[u8] = b"daemon";
const ENABLE: &str = "AutomaticLoginEnable";
const USER: &str = "AutomaticLogin";

/// The comment above a section that start-worker has added.
pub const MARK: &str = "# added by start-worker, for its automatic login";

/// Returns the file with this user logged in.
pub fn set(file: &[u8], user: &UserName) -> Vec<u8> {
    let mut lines = lines(file);
    let found = find(&lines);
    let mut missing = Vec::new();
    for (key, value) in [(ENABLE, "true"), (USER, user.as_str())] {
        let ours: Vec<&Found> = found.pairs.iter().filter(|pair| pair.key == key).collect();
        for pair in &ours {
            if let Some(line) = lines.get_mut(pair.line) {
                line.text.to_mut().truncate(pair.value_at);
                line.text.to_mut().extend_from_slice(value.as_bytes());
            }
        }
        if ours.is_empty() {
            missing.push(format!("{key}={value}"));
        }
    }
    if !missing.is_empty() {
        match found.section {
            Some(section) => insert(&mut lines, section + 1, missing),
            None => append(&mut lines, missing),
        }
    }
    bytes(&lines)
}

/// Returns the file with nobody logged in.
pub fn clear(file: &[u8]) -> Vec<u8> {
    let lines = lines(file);
    let found = find(&lines);
    let mut gone: Vec<usize> = found.pairs.iter().map(|pair| pair.line).collect();
    for mark in (0..lines.len()).filter(|line| is_mark(&lines, *line)) {
        let rest = lines.iter().enumerate().skip(mark + 2);
        let mut section = rest.take_while(|(_, line)| !matches!(kind(&line.text), Kind::Section(_)));
        if section.all(|(at, line)| line.text.trim_ascii().is_empty() || gone.contains(&at)) {
            gone.extend([mark, mark + 1]);
            let blank =
                mark.checked_sub(1).filter(|at| lines.get(*at).is_some_and(|line| line.text.is_empty()));
            gone.extend(blank);
        }
    }
    let open = lines.last().is_some_and(|line| line.end.is_empty());
    let last_goes = lines.len().checked_sub(1).is_some_and(|last| gone.contains(&last));
    let mut kept: Vec<Line<'_>> = Vec::with_capacity(lines.len());
    kept.extend(lines.into_iter().enumerate().filter(|(at, _)| !gone.contains(at)).map(|(_, line)| line));
    if let Some(last) = kept.last_mut().filter(|_| open && last_goes) {
        // Restores the missing line end that was there before a section was appended.
        last.end = b"";
    }
    bytes(&kept)
}

/// The user whom this file logs in.
pub fn user(file: &[u8]) -> Option<String> {
    let value = |key| value(file, |section| section == SECTION, key);
    let enabled = value(ENABLE).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1");
    value(USER).filter(|_| enabled)
}

/// An active line of one of our keys.
struct Found {
    key: &'static str,
    line: usize,
    value_at: usize,
}

/// Our section and keys in a file.
struct Ours {
    /// The first line of the first `[daemon]` section.
    section: Option<usize>,
    pairs: Vec<Found>,
}

fn find(lines: &[Line<'_>]) -> Ours {
    let mut found = Ours { section: None, pairs: Vec::new() };
    let mut inside = false;
    for (number, line) in lines.iter().enumerate() {
        match kind(&line.text) {
            Kind::Section(name) => {
                inside = name == SECTION;
                found.section = found.section.or(inside.then_some(number));
            }
            Kind::Pair { key, value_at } if inside => {
                let ours = [ENABLE, USER].into_iter().find(|ours| ours.as_bytes() == key);
                found.pairs.extend(ours.map(|key| Found { key, line: number, value_at }));
            }
            _ => {}
        }
    }
    found
}

fn is_mark(lines: &[Line<'_>], line: usize) -> bool {
    let text = |at| lines.get(at).map(|line: &Line<'_>| &*line.text);
    text(line) == Some(MARK.as_bytes())
        && text(line + 1).is_some_and(|next| kind(next) == Kind::Section(SECTION))
}

/// Inserts lines. If the file's last line had no line end, the new last line has none, either.
fn insert(lines: &mut Vec<Line<'_>>, at: usize, new: Vec<String>) {
    let Some(before) = at.checked_sub(1) else { return };
    let style = style(lines, before);
    let Some(before) = lines.get_mut(before) else { return };
    let open = before.end.is_empty();
    before.end = style;
    let mut added: Vec<Line<'_>> =
        new.into_iter().map(|text| Line { text: text.into_bytes().into(), end: style }).collect();
    if let Some(last) = added.last_mut().filter(|_| open) {
        last.end = b"";
    }
    lines.splice(at..at, added);
}

/// Appends our section.
fn append(lines: &mut Vec<Line<'_>>, pairs: Vec<String>) {
    let mut new = vec![MARK.to_owned(), "[daemon]".to_owned()];
    new.extend(pairs);
    if lines.is_empty() {
        lines.extend(new.into_iter().map(|text| Line { text: text.into_bytes().into(), end: b"\n" }));
        return;
    }
    new.insert(0, String::new());
    let at = lines.len();
    insert(lines, at, new);
}

/// The line end to use after this line.
fn style(lines: &[Line<'_>], line: usize) -> &'static [u8] {
    let Some(this) = lines.get(line) else { return b"\n" };
    if !this.end.is_empty() {
        return this.end;
    }
    let crlf = lines.first().is_some_and(|first| first.end == b"\r\n");
    // With a bare `\n`, a `\r` that belongs to the line's text would become part of its end.
    if crlf || this.text.last() == Some(&b'\r') { b"\r\n" } else { b"\n" }
}
