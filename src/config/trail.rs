//! The path from the top of the file to a value, formatted only for a diagnostic.

use std::fmt;

use super::keys;
use crate::redact::{MASK, mask_urls, names_a_secret};

/// Longer keys are truncated, because a diagnostic is one readable line.
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

    /// Writes the path. Returns true if it leads to a secret, rather than to an object with secrets: keys below a
    /// secret are not shown, because they are part of the intended value.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> Result<bool, fmt::Error> {
        match self {
            Trail::Start(path) => {
                f.write_str(path)?;
                Ok(path.rsplit('.').next().is_some_and(names_one_secret))
            }
            Trail::Key(parent, key) => {
                let in_secret = parent.write(f)?;
                let separator = if matches!(parent, Trail::Start("")) { "" } else { "." };
                let shown = if in_secret { MASK.to_owned() } else { key_in_path(key) };
                write!(f, "{separator}{shown}")?;
                Ok(in_secret || names_one_secret(key))
            }
            Trail::Index(parent, index) => {
                let in_secret = parent.write(f)?;
                write!(f, "[{index}]")?;
                Ok(in_secret)
            }
        }
    }

    pub(super) fn index(&'t self, index: usize) -> Self {
        Trail::Index(self, index)
    }
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f).map(|_| ())
    }
}

fn names_one_secret(key: &str) -> bool {
    key == keys::CERTIFICATE.name || names_a_secret(key) && !key.ends_with('s')
}

fn key_in_path(key: &str) -> String {
    // `password:hunter2` is a single key, because no space follows the colon.
    let name = key.find([':', '=']).and_then(|at| key.get(..at)).filter(|name| names_a_secret(name));
    if let Some(name) = name {
        return format!("{name}:{MASK}");
    }
    let key = &mask_urls(key);
    let cut: String = key.chars().take(LONGEST_KEY).collect();
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "-_/@$%+".contains(c));
    match (cut.len() < key.len(), plain) {
        (false, true) => cut,
        (false, false) => format!("{cut:?}"),
        (true, _) => format!("{cut:?}…"),
    }
}
