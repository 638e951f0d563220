//! Diagnostics of a runner configuration: errors and warnings, with their remedies.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::{Path, PathBuf};

use super::file::Document;
use crate::redact::Secrets;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The configuration cannot be used.
    Error,
    /// An unknown key. A warning; an error for `check --strict`.
    UnknownKey,
    /// The configuration can be used, but deserves attention.
    Warning,
}

/// An error or warning. Formats as one line: file, line if known, path, expected and actual value (never a secret),
/// remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub level: Level,
    pub file: PathBuf,
    /// The line number, from 1.
    pub line: Option<usize>,
    /// The key: `provider.workerPoolID`; empty for the file as a whole.
    pub path: String,
    /// The message: lower case, no trailing dot.
    pub message: String,
}

impl Diagnostic {
    /// The line with the prefix `error: ` or `warning: `, for output without another indication of the level.
    pub fn labelled(&self) -> String {
        let label = match self.level {
            Level::Error => "error",
            Level::UnknownKey | Level::Warning => "warning",
        };
        format!("{label}: {self}")
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if !self.path.is_empty() {
            write!(f, " {}:", self.path)?;
        }
        write!(f, " {}", self.message)
    }
}

/// The diagnostics of an unusable configuration, all found in one pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// At least one is an error. In the order of the file's lines, if known.
    pub diagnostics: Vec<Diagnostic>,
}

impl Faults {
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.level == Level::Error)
    }
}

/// Formats the first error, and the number of further ones.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut errors = self.errors();
        if let Some(first) = errors.next() {
            write!(f, "{first}")?;
        }
        match errors.count() {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

impl std::error::Error for Faults {}

/// Maximum total size of all diagnostics, in bytes. A faulty mapping with a thousand aliases is reported a thousand
/// times.
const MOST_TOLD: usize = 4 << 20;

const UNTOLD: &str = "more of this kind than can be told; correct what is told, and look again";

/// Collects diagnostics while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Notes {
    notes: RefCell<Vec<Note>>,
    /// Their total size in bytes.
    told: Cell<usize>,
}

#[derive(Debug)]
struct Note {
    level: Level,
    about: About,
    path: String,
    message: String,
}

/// The source of a diagnostic's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    File,
    Line(usize),
    /// The node with this number.
    Node(usize),
}

impl From<Option<usize>> for About {
    fn from(id: Option<usize>) -> Self {
        id.map_or(Self::File, Self::Node)
    }
}

impl Notes {
    pub(super) fn error(&self, id: impl Into<Option<usize>>, path: &str, message: impl Into<String>) {
        self.add(Level::Error, id.into().into(), path, message.into());
    }

    pub(super) fn warning(&self, id: impl Into<Option<usize>>, path: &str, message: impl Into<String>) {
        self.add(Level::Warning, id.into().into(), path, message.into());
    }

    pub(super) fn warning_in_line(&self, line: usize, message: String) {
        self.add(Level::Warning, About::Line(line), "", message);
    }

    pub(super) fn unknown_key(&self, id: impl Into<Option<usize>>, path: &str, message: impl Into<String>) {
        self.add(Level::UnknownKey, id.into().into(), path, message.into());
    }

    fn add(&self, level: Level, about: About, path: &str, message: String) {
        let mut notes = self.notes.borrow_mut();
        self.told.set(self.told.get().saturating_add(path.len() + message.len()));
        if self.told.get() <= MOST_TOLD {
            notes.push(Note { level, about, path: path.to_owned(), message });
        } else if !notes.iter().any(|note| note.level == level && note.message == UNTOLD) {
            notes.push(Note { level, about: About::File, path: String::new(), message: UNTOLD.to_owned() });
        }
    }

    /// Returns the diagnostics with their lines, in the order of the lines.
    pub(super) fn finish(self, file: &Path, document: &Document, secrets: &Secrets) -> Vec<Diagnostic> {
        let mut notes = self.notes.into_inner();
        notes.sort_by_key(|note| (note.about, note.level != Level::Error));
        let line_of = |note: Note| {
            let line = match note.about {
                About::File => None,
                About::Line(line) => Some(line),
                About::Node(id) => document.place(id).map(|place| place.line),
            };
            // For an alias, the line differs from the order of the nodes' numbers.
            let order = line.unwrap_or(if note.about == About::File { 0 } else { usize::MAX });
            let file = file.to_owned();
            // Long keys have been truncated.
            let (path, message) = (secrets.mask_cut_lines(note.path), secrets.mask(note.message));
            (order, Diagnostic { level: note.level, file, line, path, message })
        };
        let mut ordered: Vec<_> = notes.into_iter().map(line_of).collect();
        ordered.sort_by_key(|(order, _)| *order);
        ordered.into_iter().map(|(_, diagnostic)| diagnostic).collect()
    }
}
