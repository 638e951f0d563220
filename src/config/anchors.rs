//! Finds anchors that are defined twice, which the YAML crate confuses.
//!
//! YAML allows an anchor to be redefined. The crate numbers anchors by the number of names seen so far, so that from
//! the second redefinition on two anchors can share a number, and an alias can then resolve to a later one. The crate
//! does not report anchors to its callers. The text is therefore searched, and a match may not be an anchor (`&` in a
//! script), which is good enough for a warning.

use std::collections::BTreeMap;

/// The line of an anchor's second definition, if it is defined twice and used.
pub(super) fn repeated(text: &str) -> Option<usize> {
    let mut times = BTreeMap::new();
    let mut repeated = None;
    for (line, mark, name) in marked_words(text) {
        if mark == '&' {
            let count: &mut usize = times.entry(name).or_default();
            *count += 1;
            if *count == 2 && repeated.is_none() {
                repeated = Some((name, line));
            }
        }
    }
    let (_, line) = repeated?;
    marked_words(text).any(|(_, mark, name)| mark == '*' && times.get(name) > Some(&1)).then_some(line)
}

/// The words with the prefix `&` or `*` at positions where a value may begin, with their lines.
fn marked_words(text: &str) -> impl Iterator<Item = (usize, char, &str)> {
    let separators = |c: char| c.is_whitespace() || "[]{},".contains(c);
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
    lines.flat_map(move |(index, line)| {
        line.split(separators).filter_map(move |word| {
            let mark = word.chars().next().filter(|mark| ['&', '*'].contains(mark))?;
            let name = word.get(1..)?;
            let plain = name.starts_with(char::is_alphanumeric)
                && name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
            plain.then_some((index + 1, mark, name))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_that_are_given_twice_and_used_are_found() {
        assert_eq!(repeated("a: &x 1\nb: *x\nc: &x 2\nd: *x\n"), Some(3));
        assert_eq!(repeated("[&x 1, &y 2, &y 3, {<<: *y}]"), Some(1));
    }

    #[test]
    fn other_ampersands_and_stars_are_not() {
        for text in [
            "a: &x 1\nb: *x\n",
            "a: &x 1\nc: &x 2\n",
            "a: x & y & y\n",
            "# &x &x *x\n",
            "a: b && c && d *\n",
            "",
        ] {
            assert_eq!(repeated(text), None, "{text}");
        }
    }
}
