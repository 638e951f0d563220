//! The way from the top of the file to a value, written out only for a diagnostic.

use std::fmt;

/// Longer keys are cut: a diagnostic is one readable line.
const LONGEST_KEY: usize = 80;

#[derive(Debug, Clone, Copy)]
pub(super) enum Trail<'t> {
    /// A section or key of the runner configuration; may be empty.
    Start(&'t str),
    Key(&'t Trail<'t>, &'t str),
    Index(&'t Trail<'t>, usize),
}

impl<'t> Trail<'t> {
    pub(super) fn key(&'t self, key: &'t str) -> Self {
        Trail::Key(self, key)
    }

    pub(super) fn index(&'t self, index: usize) -> Self {
        Trail::Index(self, index)
    }
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trail::Start(path) => f.write_str(path),
            Trail::Key(Trail::Start(""), key) => f.write_str(&key_in_path(key)),
            Trail::Key(parent, key) => write!(f, "{parent}.{}", key_in_path(key)),
            Trail::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

fn key_in_path(key: &str) -> String {
    let cut: String = key.chars().take(LONGEST_KEY).collect();
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "-_/@$%+".contains(c));
    match (cut.len() < key.len(), plain) {
        (false, true) => cut,
        (false, false) => format!("{cut:?}"),
        (true, _) => format!("{cut:?}…"),
    }
}
