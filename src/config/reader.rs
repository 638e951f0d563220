//! What all sections share while a configuration is read: the file's text, the diagnostics, and how values are
//! described in these.

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

/// Longer values are cut in diagnostics.
const LONGEST_VALUE: usize = 60;

pub(super) struct Reader<'d> {
    pub(super) document: &'d Document,
    /// Where the runner keeps what outlives it.
    pub(super) state_directory: &'d Path,
    pub(super) notes: Notes,
    /// The secrets in the file, masked wherever they are repeated.
    pub(super) secrets: Secrets,
}

/// The strings that a file gives for keys that name a secret.
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
    /// Tells what is wrong with the keys of all mappings.
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

    /// A value with its type and, unless it may be secret, itself.
    pub(super) fn describe(&self, node: &Node, secret: bool) -> String {
        let kind = match &node.kind {
            Kind::Null => return "null".to_owned(),
            Kind::HugeInteger => return "an integer of more than 64 bits".to_owned(),
            Kind::Sequence(_) => return "a list".to_owned(),
            Kind::Mapping(_) => return "an object".to_owned(),
            // A secret that begins with `!` and stands without quotes looks like one.
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

    /// A string in quotes, on one line, cut where it is long; without secrets that the file has elsewhere, and not at all
    /// where it gives one itself.
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

    /// An integer's text where it is written in the usual way; `0x1F` is not.
    pub(super) fn integer_text(&self, node: &Node, number: i128) -> Option<String> {
        let text = number.to_string();
        let written = self.document.place(node.id);
        written.is_none_or(|place| place.text == text).then_some(text)
    }

    /// The value as JSON. What JSON cannot hold is an error and becomes null.
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

    /// A mapping as JSON; anything else is empty.
    pub(super) fn json_object(&self, node: &Node, trail: &Trail<'_>) -> Map<String, Value> {
        let Kind::Mapping(mapping) = &node.kind else { return Map::new() };
        let entry = |entry: &Entry| {
            let value = self.json(&entry.value, entry.key_id, &trail.key(&entry.key));
            (entry.key.clone(), value)
        };
        mapping.entries.iter().map(entry).collect()
    }

    /// The YAML crate makes an integer of more than 128 bits a float, and one that is too large for that a string.
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
