//! The values of keys, by their types. [`super::section`] describes the treatment of invalid values.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::keys::{Key, Takes};
use super::node::{Entry, Kind, Node};
use super::reader::expected;
use super::section::Section;
use super::text::{self, Complaint};
use super::trail::Trail;

const QUOTE: &str = "put it in quotes";

impl Section<'_> {
    pub(super) fn string(&mut self, key: &'static Key) -> String {
        self.optional_string(key).unwrap_or_default()
    }

    pub(super) fn optional_string(&mut self, key: &'static Key) -> Option<String> {
        let given = self.take(key)?;
        let text = self.plain_text(key, given.id, &given.node)?;
        text::checked(key.takes, &text)
            .map_err(|complaint| self.complain(key, given.id, &text, &complaint))
            .ok()
    }

    pub(super) fn path(&mut self, key: &'static Key) -> PathBuf {
        self.optional_path(key).unwrap_or_default()
    }

    pub(super) fn optional_path(&mut self, key: &'static Key) -> Option<PathBuf> {
        self.optional_string(key).map(PathBuf::from)
    }

    /// The text of a value that should be a string. Integers are accepted; other types into which YAML may have
    /// converted the intended text are not.
    fn plain_text(&self, key: &Key, id: usize, node: &Node) -> Option<String> {
        let hint = match &node.kind {
            Kind::String(text) if !text::looks_like_a_date(text) => return Some(text.clone()),
            Kind::String(text) => {
                if self.reader.document.place(node.id).is_none_or(|place| !place.plain) {
                    return Some(text.clone());
                }
                let found = if key.secret { "a date".to_owned() } else { format!("the date {text}") };
                self.reader.notes.error(id, &key.path(), expected(&key.takes.in_words(), &found, QUOTE));
                return None;
            }
            Kind::Integer(number) => {
                if let Some(text) = self.reader.integer_text(node, *number) {
                    return Some(text);
                }
                QUOTE
            }
            Kind::HugeInteger | Kind::Float(_) | Kind::Boolean(_) => QUOTE,
            Kind::Null | Kind::Sequence(_) | Kind::Mapping(_) | Kind::Tagged => "",
        };
        self.reader.ill_typed(key, id, node, hint);
        None
    }

    pub(super) fn duration(&mut self, key: &'static Key) -> Duration {
        self.optional_duration(key).unwrap_or_default()
    }

    pub(super) fn optional_duration(&mut self, key: &'static Key) -> Option<Duration> {
        let given = self.take(key)?;
        match &given.node.kind {
            Kind::String(text) => text::duration(text, key.takes == Takes::DurationOrZero)
                .map_err(|complaint| self.complain(key, given.id, text, &complaint))
                .ok(),
            Kind::Integer(_) | Kind::Float(_) => {
                self.reader.ill_typed(key, given.id, &given.node, "add a unit, as in 90s");
                None
            }
            _ => {
                let hint = "write it as in 90s, 15m, 6h or 1h 30m";
                self.reader.ill_typed(key, given.id, &given.node, hint);
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, key: &'static Key) -> bool {
        let Some(given) = self.take(key) else { return false };
        if let Kind::Boolean(boolean) = given.node.kind {
            return boolean;
        }
        if let Some(boolean) = self.old_boolean(key, given.id, &given.node) {
            return boolean;
        }
        let hint = match &given.node.kind {
            Kind::String(text) if ["true", "false"].contains(&text.as_str()) => "remove the quotes",
            _ => "",
        };
        self.reader.ill_typed(key, given.id, &given.node, hint);
        false
    }

    fn old_boolean(&self, key: &Key, id: usize, node: &Node) -> Option<bool> {
        let Kind::String(text) = &node.kind else { return None };
        let boolean = text::old_boolean(text)?;
        let message = expected(
            "true or false",
            &self.reader.quoted(text),
            &format!("taken as {boolean}; write {boolean}"),
        );
        self.reader.notes.warning(id, &key.path(), message);
        Some(boolean)
    }

    pub(super) fn integer<T: TryFrom<i128> + Default>(&mut self, key: &'static Key) -> T {
        let Some(given) = self.take(key) else { return T::default() };
        let range = match key.takes {
            Takes::Integer { least, most } => i128::from(least)..=i128::from(most),
            _ => 0..=0,
        };
        let number = match given.node.kind {
            Kind::Integer(number) if range.contains(&number) => T::try_from(number).ok(),
            _ => None,
        };
        number.unwrap_or_else(|| {
            let hint =
                if matches!(given.node.kind, Kind::String(_)) { "write it without quotes" } else { "" };
            self.reader.ill_typed(key, given.id, &given.node, hint);
            T::default()
        })
    }

    /// One of the key's options; empty if the value is not one of them, which has been reported.
    pub(super) fn choice(&mut self, key: &'static Key) -> &'static str {
        let Some(given) = self.take(key) else { return "" };
        self.choose(key, &given.node, given.id).unwrap_or_else(|hint| {
            self.reader.ill_typed(key, given.id, &given.node, &hint);
            ""
        })
    }

    /// The matching option, or a hint if there is none.
    pub(super) fn choose(&self, key: &Key, node: &Node, id: usize) -> Result<&'static str, String> {
        let Takes::Choice(options) = key.takes else { return Err(String::new()) };
        let text = match &node.kind {
            Kind::String(text) => text.clone(),
            Kind::Boolean(boolean) => boolean.to_string(),
            _ => return Err(String::new()),
        };
        let option = |text: &str| options.iter().find(|option| **option == text).copied();
        if let Some(found) = option(&text) {
            return Ok(found);
        }
        if let Some(found) =
            option("true").and_then(|_| option(&self.old_boolean(key, id, node)?.to_string()))
        {
            return Ok(found);
        }
        let meant = super::near::near(&text, options.iter().copied());
        Err(meant.map(|meant| format!("did you mean {meant}?")).unwrap_or_default())
    }

    pub(super) fn strings(&mut self, key: &'static Key) -> Vec<String> {
        let Some(given) = self.take(key) else { return Vec::new() };
        let Kind::Sequence(items) = &given.node.kind else {
            let hint = if matches!(given.node.kind, Kind::String(_)) { "write it as in [a, b]" } else { "" };
            self.reader.ill_typed(key, given.id, &given.node, hint);
            return Vec::new();
        };
        let path = key.path();
        let start = Trail::Start(&path);
        let strings: Vec<_> = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| self.loose_string(key, item.id, item, &start.index(index)))
            .collect();
        let no_program = strings.first().is_none_or(String::is_empty);
        if key.takes == Takes::Command && no_program && strings.len() == items.len() {
            self.reader.notes.error(
                given.id,
                &path,
                expected("a program and its arguments", "no program", ""),
            );
        }
        strings
    }

    pub(super) fn absolute_paths(&mut self, key: &'static Key) -> Vec<PathBuf> {
        let id = self.entry(key).map(|given| given.id);
        let paths: Vec<PathBuf> = self.strings(key).into_iter().map(PathBuf::from).collect();
        let key_path = key.path();
        for (index, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_absolute()) {
            let found = self.reader.quoted(&path.display().to_string());
            let at = Trail::Start(&key_path).index(index).to_string();
            self.reader.notes.error(id, &at, expected("an absolute path", &found, ""));
        }
        paths
    }

    /// `None` where the key is not given.
    pub(super) fn optional_strings(&mut self, key: &'static Key) -> Option<Vec<String>> {
        if !self.has(key) {
            self.ignore(key);
            return None;
        }
        Some(self.strings(key))
    }

    pub(super) fn string_map(&mut self, key: &'static Key) -> BTreeMap<String, String> {
        let Some(given) = self.take(key) else { return BTreeMap::new() };
        let Kind::Mapping(mapping) = &given.node.kind else {
            self.reader.ill_typed(key, given.id, &given.node, "");
            return BTreeMap::new();
        };
        let path = key.path();
        let start = Trail::Start(&path);
        let pair = |entry: &Entry| {
            let trail = start.key(&entry.key);
            let name =
                key.takes != Takes::Environment || !(entry.key.is_empty() || entry.key.contains(['=', '\0']));
            if !name {
                let message = "expected a variable's name, which is not empty and has no =; change it";
                self.reader.notes.error(entry.key_id, &trail.to_string(), message);
            }
            let value = self.loose_string(key, entry.key_id, &entry.value, &trail)?;
            Some((entry.key.clone(), value))
        };
        mapping.entries.iter().filter_map(pair).collect()
    }

    /// A string in a list or object, which may also be empty or contain line breaks.
    fn loose_string(&self, key: &Key, id: usize, node: &Node, trail: &Trail<'_>) -> Option<String> {
        let text = match &node.kind {
            Kind::String(text) => Some(text.clone()),
            Kind::Integer(number) if key.takes != Takes::Location => self.reader.integer_text(node, *number),
            _ => None,
        };
        let date = |text: &str| {
            text::looks_like_a_date(text)
                && self.reader.document.place(node.id).is_some_and(|place| place.plain)
        };
        let found = match &text {
            Some(text) if text.contains('\0') => "one with a NUL character in it".to_owned(),
            Some(text) if date(text) => "a date".to_owned(),
            Some(_) => return text,
            None => self.reader.describe(node, key.secret),
        };
        let hint = match &node.kind {
            Kind::Null | Kind::Sequence(_) | Kind::Mapping(_) | Kind::Tagged => "",
            _ if text.as_ref().is_some_and(|text| text.contains('\0')) => "remove it",
            _ => QUOTE,
        };
        self.reader.notes.error(id, &trail.to_string(), expected("a string", &found, hint));
        None
    }

    pub(super) fn object(&mut self, key: &'static Key) -> Map<String, Value> {
        let Some(given) = self.take(key) else { return Map::new() };
        let Kind::Mapping(_) = &given.node.kind else {
            self.reader.ill_typed(key, given.id, &given.node, "");
            return Map::new();
        };
        self.reader.json_object(&given.node, &Trail::Start(&key.path()))
    }

    pub(super) fn address(&mut self, key: &'static Key) -> Option<std::net::SocketAddr> {
        let given = self.take(key)?;
        let hint = "write it as in 127.0.0.1:9464";
        let Kind::String(text) = &given.node.kind else {
            self.reader.ill_typed(key, given.id, &given.node, hint);
            return None;
        };
        let complaint = || Complaint { expected: key.takes.in_words(), hint, secret: false };
        text.parse().map_err(|_| self.complain(key, given.id, text, &complaint())).ok()
    }
}
