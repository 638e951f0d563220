//! What is wrong or doubtful in a runner configuration, and what to do about it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::{Path, PathBuf};

use super::file::Document;
use crate::redact::Secrets;

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The configuration cannot be used.
    Error,
    /// A key that nothing reads. A warning; an error for `check --strict`.
    UnknownKey,
    /// It can be used; somebody should look.
    Warning,
}

/// One thing that is wrong or doubtful. Shows as one line: file, line where known, path, what was expected, what was
/// found (never a secret), what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub level: Level,
    /// The runner configuration's file.
    pub file: PathBuf,
    /// The line in it, counted from 1.
    pub line: Option<usize>,
    /// Which key: `provider.workerPoolID`; empty for the file as a whole.
    pub path: String,
    /// The rest: lower case, no trailing dot.
    pub message: String,
}

impl Diagnostic {
    /// The line with `error: ` or `warning: ` before it, for where nothing else says which it is.
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

/// A configuration that cannot be used: everything that was found in one pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// At least one of them is an error. In the order of the file's lines, as far as known.
    pub diagnostics: Vec<Diagnostic>,
}

impl Faults {
    /// The errors among the diagnostics.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.level == Level::Error)
    }
}

/// The first error, and how many more there are.
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

/// How long all diagnostics together may be, in bytes. A mapping that is wrong and has a thousand aliases is wrong a
/// thousand times.
const MOST_TOLD: usize = 4 << 20;

const UNTOLD: &str = "more of this kind than can be told; correct what is told, and look again";

/// Collects diagnostics while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Notes {
    notes: RefCell<Vec<Note>>,
    /// How long they are.
    told: Cell<usize>,
}

#[derive(Debug)]
struct Note {
    level: Level,
    about: About,
    path: String,
    message: String,
}

/// Where the line of a diagnostic comes from.
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

    /// The diagnostics, with their lines, in the order of these.
    pub(super) fn finish(self, file: &Path, document: &Document, secrets: &Secrets) -> Vec<Diagnostic> {
        let mut notes = self.notes.into_inner();
        notes.sort_by_key(|note| (note.about, note.level != Level::Error));
        let line_of = |note: Note| {
            let line = match note.about {
                About::File => None,
                About::Line(line) => Some(line),
                About::Node(id) => document.place(id).map(|place| place.line),
            };
            // What an alias brings in stands elsewhere than its number says.
            let order = line.unwrap_or(if note.about == About::File { 0 } else { usize::MAX });
            let file = file.to_owned();
            // Long keys have been cut.
            let (path, message) = (secrets.mask_cut_lines(note.path), secrets.mask(note.message));
            (order, Diagnostic { level: note.level, file, line, path, message })
        };
        let mut ordered: Vec<_> = notes.into_iter().map(line_of).collect();
        ordered.sort_by_key(|(order, _)| *order);
        ordered.into_iter().map(|(_, diagnostic)| diagnostic).collect()
    }
}
