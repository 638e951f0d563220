//! The state that all sections share while a configuration is read: the file's text, the diagnostics, and the
//! description of values.

use std::path::Path;

use serde_json::{Map, Number, Value};

use super::diagnostics::Notes;
use super::file::Document;
use super::keys::{self, Key};
use super::node::{Entry, FlawKind, Kind, Node};
use super::trail::Trail;
use crate::redact::{Secrets, assigns_a_secret, cut, mask_urls, names_a_secret};

const TAGGED: &str = "a value that begins with `!` is taken for one with a tag, which has no meaning here; put it in quotes, or remove the tag";

const HUGE: &str = "an integer of more than 64 bits would lose digits; put it in quotes";

/// Maximum length of a value in a diagnostic, in characters.
const LONGEST_VALUE: usize = 60;

pub(super) struct Reader<'d> {
    pub(super) document: &'d Document,
    /// The directory for state that outlives the runner.
    pub(super) state_directory: &'d Path,
    pub(super) notes: Notes,
    /// The secrets in the file, masked wherever they are repeated.
    pub(super) secrets: Secrets,
}

/// The strings in a file whose key names a secret.
pub(super) fn secrets_of(root: &Node) -> Secrets {
    let secrets = Secrets::default();
    add_secrets(&secrets, root, false);
    secrets
}

fn add_secrets(secrets: &Secrets, node: &Node, secret: bool) {
    match &node.kind {
        Kind::String(text) if secret => secrets.add_configured(text),
        Kind::Sequence(items) => items.iter().for_each(|item| add_secrets(secrets, item, secret)),
        Kind::Mapping(mapping) => {
            for Entry { key, value, .. } in &mapping.entries {
                add_secrets(secrets, value, secret || names_a_secret(key) || key == keys::CERTIFICATE.name);
            }
        }
        _ => {}
    }
}

impl Reader<'_> {
    /// Reports the faults of all mappings' keys.
    pub(super) fn report_flaws(&self, node: &Node, trail: &Trail<'_>) {
        match &node.kind {
            Kind::Mapping(mapping) => {
                for flaw in &mapping.flaws {
                    let path = trail.key(&flaw.key).to_string();
                    let here = trail.to_string();
                    match flaw.kind {
                        FlawKind::Duplicate => {
                            self.notes.error(flaw.id, &path, "given twice in the same place; remove one");
                        }
                        FlawKind::KeyTaken => self.notes.warning(
                            flaw.id,
                            &path,
                            "expected a string as key; taken as one; put it in quotes",
                        ),
                        FlawKind::KeyRefused => self.notes.error(
                            flaw.id,
                            &here,
                            "expected a string as key, found something else; put the key in quotes",
                        ),
                        FlawKind::Merge => self.notes.error(
                            flaw.id,
                            &path,
                            "expected a mapping or a list of mappings to merge, found something else",
                        ),
                    }
                }
                for entry in &mapping.entries {
                    self.report_flaws(&entry.value, &trail.key(&entry.key));
                }
            }
            Kind::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.report_flaws(item, &trail.index(index));
                }
            }
            _ => {}
        }
    }

    /// Describes a value by its type and, unless it may be secret, by its text.
    pub(super) fn describe(&self, node: &Node, secret: bool) -> String {
        let kind = match &node.kind {
            Kind::Null => return "null".to_owned(),
            Kind::HugeInteger => return "an integer of more than 64 bits".to_owned(),
            Kind::Sequence(_) => return "a list".to_owned(),
            Kind::Mapping(_) => return "an object".to_owned(),
            // An unquoted secret that begins with `!` parses as a tag.
            Kind::Tagged => return "a value that begins with `!`, which makes it a tag".to_owned(),
            Kind::Boolean(_) => "boolean",
            Kind::Integer(_) => "integer",
            Kind::Float(_) => "number",
            Kind::String(_) => "string",
        };
        if secret {
            let article = if kind == "integer" { "an" } else { "a" };
            return format!("{article} {kind}");
        }
        match &node.kind {
            Kind::String(text) => self.quoted(text),
            Kind::Boolean(boolean) => format!("the boolean {boolean}"),
            _ => format!("the {kind} {}", self.document.place(node.id).unwrap_or_default().text),
        }
    }

    /// Quotes a string on one line, truncated, with the file's other secrets masked. A string that itself assigns a
    /// secret is not shown.
    pub(super) fn quoted(&self, text: &str) -> String {
        if assigns_a_secret(text) {
            return "a string that may hold a secret".to_owned();
        }
        let masked = self.secrets.mask(mask_urls(text));
        let shown = cut(&masked, LONGEST_VALUE, "");
        if shown.len() < masked.len() { format!("{shown:?}…") } else { format!("{shown:?}") }
    }

    pub(super) fn ill_typed(&self, key: &Key, id: usize, node: &Node, hint: &str) {
        let message = expected(&key.takes.in_words(), &self.describe(node, key.secret), hint);
        self.notes.error(id, &key.path(), message);
    }

    /// An integer's text in its usual form; `None` for other forms, such as `0x1F`.
    pub(super) fn integer_text(&self, node: &Node, number: i128) -> Option<String> {
        let text = number.to_string();
        let written = self.document.place(node.id);
        written.is_none_or(|place| place.text == text).then_some(text)
    }

    /// Converts a value to JSON. A value without a JSON form is an error and becomes null.
    pub(super) fn json(&self, node: &Node, id: usize, trail: &Trail<'_>) -> Value {
        let refuse = |message: &str| {
            self.notes.error(id, &trail.to_string(), message);
            Value::Null
        };
        match &node.kind {
            Kind::Null => Value::Null,
            Kind::Boolean(boolean) => Value::Bool(*boolean),
            Kind::Integer(number) => Number::from_i128(*number).map_or_else(|| refuse(HUGE), Value::Number),
            Kind::HugeInteger => refuse(HUGE),
            Kind::Float(_) | Kind::String(_) if self.is_huge_integer(node) => refuse(HUGE),
            Kind::Float(number) => Number::from_f64(*number).map_or_else(
                || refuse("expected a finite number, found one that JSON cannot hold; put it in quotes"),
                Value::Number,
            ),
            Kind::String(text) => Value::String(text.clone()),
            Kind::Sequence(items) => {
                let item = |(index, item): (usize, &Node)| self.json(item, item.id, &trail.index(index));
                Value::Array(items.iter().enumerate().map(item).collect())
            }
            Kind::Mapping(_) => Value::Object(self.json_object(node, trail)),
            Kind::Tagged => refuse(TAGGED),
        }
    }

    /// Converts a mapping to JSON; any other value becomes an empty object.
    pub(super) fn json_object(&self, node: &Node, trail: &Trail<'_>) -> Map<String, Value> {
        let Kind::Mapping(mapping) = &node.kind else { return Map::new() };
        let entry = |entry: &Entry| {
            let value = self.json(&entry.value, entry.key_id, &trail.key(&entry.key));
            (entry.key.clone(), value)
        };
        mapping.entries.iter().map(entry).collect()
    }

    /// The YAML crate converts an integer of more than 128 bits to a float, and one that is too large for that to a
    /// string.
    fn is_huge_integer(&self, node: &Node) -> bool {
        let all_digits = |text: &str| {
            let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
            digits.len() > 38 && !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        let suspect = match &node.kind {
            Kind::Float(number) => number.abs() > 1e38,
            Kind::String(text) => all_digits(text),
            _ => false,
        };
        suspect && self.document.place(node.id).is_none_or(|place| place.plain && all_digits(&place.text))
    }
}

/// `expected …, found …; …`.
pub(super) fn expected(what: &str, found: &str, hint: &str) -> String {
    let separator = if hint.is_empty() { "" } else { "; " };
    format!("expected {what}, found {found}{separator}{hint}")
}
