//! From CHANGELOG.md to the changelog that Debian's tools read (deb-changelog(5)).

use std::fmt::Write as _;

use jiff::Timestamp;

const MAINTAINER: &str = "start-worker maintainers <maintainers@start-worker.invalid>";

/// Lines of a Debian changelog are no longer, but for words that are.
const WIDTH: usize = 79;

/// The newest section with changes, as the only entry. A release has an empty section of unreleased changes above it.
pub(crate) fn debian(changes: &str, version: &str, date: Timestamp) -> String {
    let has_changes = |section: &&str| section.lines().skip(1).any(|line| !line.trim().is_empty());
    let newest = changes.split("\n## ").skip(1).find(has_changes).unwrap_or_default();
    let mut entry = format!("start-worker ({version}-1) unstable; urgency=medium\n\n");
    let mut item = String::new();
    // The first line is the version's heading.
    for line in newest.lines().skip(1).chain([""]) {
        let begins = line.is_empty() || line.starts_with("* ") || line.starts_with('#');
        if begins && !item.is_empty() {
            wrap(&mut entry, &std::mem::take(&mut item));
        }
        if let Some(heading) = line.strip_prefix("### ") {
            // Writing to a String cannot fail.
            let _ = writeln!(entry, "  [ {heading} ]");
        } else {
            item.push_str(line.strip_prefix("* ").unwrap_or(line).trim());
            item.push(' ');
        }
        item = item.trim_start().to_owned();
    }
    let date = date.strftime("%a, %d %b %Y %H:%M:%S +0000");
    let _ = writeln!(entry, "\n -- {MAINTAINER}  {date}");
    entry
}

fn wrap(entry: &mut String, item: &str) {
    let mut line = "  *".to_owned();
    for word in item.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            entry.push_str(&line);
            entry.push('\n');
            "   ".clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    entry.push_str(&line);
    entry.push('\n');
}
