//! One section of the configuration while it is read: returns the values of its keys, and reports those that are
//! invalid, missing or unknown.
//!
//! Every method takes a [`Key`], which defines its type and default. An invalid value is reported and replaced by a
//! placeholder, so that one pass finds all faults; the result is then discarded.

use std::collections::BTreeSet;

use super::file::Document;
use super::keys::{self, Default, Key, Takes};
use super::near::{near, same_letters};
use super::node::{Entry, Kind, Node};
use super::reader::{Reader, expected};
use super::trail::Trail;

pub(super) struct Section<'r> {
    pub(super) reader: &'r Reader<'r>,
    /// The section's path.
    name: &'static str,
    /// The node whose line is reported for a missing key.
    id: Option<usize>,
    entries: Vec<Entry>,
    /// The provider type or implementation, if the section's keys depend on it.
    variant: Option<&'static str>,
    read: Vec<&'static str>,
    missing: Vec<&'static Key>,
}

/// A key's value, or its default.
pub(super) struct Given {
    /// The key's node, whose line a diagnostic reports.
    pub(super) id: usize,
    pub(super) node: Node,
}

impl<'r> Section<'r> {
    /// The top of the file; `None` if it has no sections, which has been reported.
    pub(super) fn top(reader: &'r Reader<'r>) -> Option<Self> {
        let root = &reader.document.root;
        let message = match &root.kind {
            Kind::Mapping(mapping) => {
                let top = Self::new(reader, "", None);
                return Some(Section { entries: mapping.entries.clone(), ..top });
            }
            Kind::Null => "nothing in it; give it at least the sections provider and worker".to_owned(),
            _ => expected("sections", &reader.describe(root, true), "begin with `provider:`"),
        };
        reader.notes.error(root.id, "", message);
        None
    }

    fn new(reader: &'r Reader<'r>, name: &'static str, id: Option<usize>) -> Self {
        Self { reader, name, id, entries: Vec::new(), variant: None, read: Vec::new(), missing: Vec::new() }
    }

    /// A nested section with its path; empty if it is optional and not given. `None` if it is required and missing, or
    /// not a section.
    pub(super) fn section(&mut self, key: &'static Key, name: &'static str) -> Option<Section<'r>> {
        let given = self.take(key)?;
        let Kind::Mapping(mapping) = given.node.kind else {
            self.reader.ill_typed(key, given.id, &given.node, "");
            return None;
        };
        let section = Self::new(self.reader, name, Some(given.id));
        Some(Section { entries: mapping.entries, ..section })
    }

    /// Selects the keys of this provider type or implementation.
    pub(super) fn set_variant(&mut self, variant: &'static str) {
        self.variant = Some(variant);
    }

    /// Returns true if the key is given and not null.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.entries.iter().any(|entry| entry.key == key.name && !matches!(entry.value.kind, Kind::Null))
    }

    /// The given value of the key, including null, without marking the key as read.
    pub(super) fn entry(&self, key: &Key) -> Option<Given> {
        let entry = self.entries.iter().find(|entry| entry.key == key.name)?;
        Some(Given { id: entry.key_id, node: entry.value.clone() })
    }

    /// Marks the key as read, whatever its value is.
    pub(super) fn ignore(&mut self, key: &'static Key) {
        self.read.push(key.name);
    }

    /// The key's value; its default if it is not given or null; `None` if it has no default.
    pub(super) fn take(&mut self, key: &'static Key) -> Option<Given> {
        self.read.push(key.name);
        let entry = self.entries.iter().find(|entry| entry.key == key.name);
        match (entry, key.default) {
            (Some(entry), Default::Required) if matches!(entry.value.kind, Kind::Null) => {
                let hint = format!("; expected {}", key.takes.in_words());
                self.reader.notes.error(
                    entry.key_id,
                    &key.path(),
                    format!("null, or nothing after it{hint}"),
                );
                None
            }
            (Some(entry), _) if !matches!(entry.value.kind, Kind::Null) => {
                Some(Given { id: entry.key_id, node: entry.value.clone() })
            }
            (_, Default::Required) => {
                self.missing.push(key);
                None
            }
            (_, Default::Absent(_)) => None,
            (_, Default::Value(text)) => {
                let node = Document::parse(text.as_bytes()).ok()?.root;
                Some(Given { id: self.id.unwrap_or_default(), node })
            }
        }
    }

    /// Reports missing and unknown keys.
    pub(super) fn finish(mut self) {
        let entries = std::mem::take(&mut self.entries);
        let given: BTreeSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        for entry in &entries {
            if !self.read.contains(&entry.key.as_str()) {
                self.report_leftover(entry, &given);
            }
        }
        for key in &self.missing {
            let message = match key.takes {
                Takes::Section => "missing; add this section".to_owned(),
                takes => format!("missing; expected {}", takes.in_words()),
            };
            self.reader.notes.error(self.id, &key.path(), message);
        }
    }

    fn report_leftover(&mut self, entry: &Entry, given: &BTreeSet<&str>) {
        let notes = &self.reader.notes;
        let path = Trail::Start(self.name).key(&entry.key).to_string();
        let meant = near(&entry.key, self.missing.iter().map(|key| key.name));
        if let Some(meant) = meant {
            let message = if same_letters(meant, &entry.key) {
                format!("unknown key; it is spelled {meant}")
            } else {
                format!("unknown key, and {meant} is missing; did you mean {meant}?")
            };
            notes.error(entry.key_id, &path, message);
            self.missing.retain(|key| key.name != meant);
            return;
        }
        let of_others: Vec<_> = self.keys_here().filter(|key| key.name == entry.key).collect();
        if self.variant.is_none() && of_others.iter().any(|key| !key.only.is_empty()) {
            return;
        }
        let known = self.keys_here().filter(|key| key.is_for(self.variant)).map(|key| key.name);
        let meant = near(&entry.key, known.filter(|name| !given.contains(name)));
        let elsewhere = keys::ALL.iter().find(|key| key.name == entry.key && key.section != self.name);
        let owners: Vec<_> = of_others.iter().flat_map(|key| key.only).copied().collect();
        let message = match (self.variant, meant, elsewhere) {
            (Some(variant), ..) if !owners.is_empty() => {
                format!(
                    "unknown key with {variant}, ignored; it is for {} only; remove it",
                    owners.join(", ")
                )
            }
            (_, Some(meant), _) if same_letters(meant, &entry.key) => {
                format!("unknown key, ignored; it is spelled {meant}")
            }
            (_, Some(meant), _) => format!("unknown key, ignored; did you mean {meant}?"),
            (_, None, Some(key)) => format!("unknown key here, ignored; did you mean {}?", key.path()),
            (_, None, None) => "unknown key, ignored; remove it".to_owned(),
        };
        notes.unknown_key(entry.key_id, &path, message);
    }

    fn keys_here(&self) -> impl Iterator<Item = &'static Key> {
        let name = self.name;
        keys::ALL.iter().copied().filter(move |key| key.section == name)
    }

    /// Reports a value of the right type that is invalid.
    pub(super) fn complain(&self, key: &Key, id: usize, text: &str, complaint: &super::text::Complaint) {
        let secret = key.secret || complaint.secret;
        let found = match text {
            "" => "an empty one".to_owned(),
            _ if secret => "another string".to_owned(),
            text => self.reader.quoted(text),
        };
        self.reader.notes.error(id, &key.path(), expected(&complaint.expected, &found, complaint.hint));
    }
}
