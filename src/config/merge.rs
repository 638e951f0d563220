//! Converts the keys and values of a mapping: resolves merge keys (`<<`), converts keys to strings, and records their
//! faults.

use std::collections::BTreeSet;

use super::node::{Entry, Flaw, FlawKind, Kind, Mapping, Node};

/// The key that includes another mapping's entries (<https://yaml.org/type/merge.html>).
const MERGE_KEY: &str = "<<";

pub(super) fn mapping(pairs: Vec<(Node, Node)>) -> Mapping {
    let mut mapping = Mapping::default();
    let mut seen = BTreeSet::new();
    let mut sources = Vec::new();
    for (key, value) in pairs {
        let name = match key_text(&key.kind) {
            KeyText::Text(name) => name,
            KeyText::Taken(name) => {
                mapping.flaws.push(Flaw { id: key.id, key: name.clone(), kind: FlawKind::KeyTaken });
                name
            }
            KeyText::Refused => {
                mapping.flaws.push(Flaw { id: key.id, key: String::new(), kind: FlawKind::KeyRefused });
                continue;
            }
        };
        if !seen.insert(name.clone()) {
            mapping.flaws.push(Flaw { id: key.id, key: name, kind: FlawKind::Duplicate });
        } else if name == MERGE_KEY {
            sources.push((key.id, value));
        } else {
            mapping.entries.push(Entry { key: name, key_id: key.id, value });
        }
    }
    for (id, source) in sources {
        merge(&mut mapping, &mut seen, id, source);
    }
    mapping
}

/// Existing entries take precedence: explicit keys over merged ones, earlier sources over later ones.
fn merge(mapping: &mut Mapping, seen: &mut BTreeSet<String>, id: usize, source: Node) {
    let sources = match source.kind {
        Kind::Sequence(sources) => sources,
        _ => vec![source],
    };
    for source in sources {
        let Kind::Mapping(source) = source.kind else {
            mapping.flaws.push(Flaw { id, key: MERGE_KEY.to_owned(), kind: FlawKind::Merge });
            continue;
        };
        mapping.flaws.extend(source.flaws);
        for entry in source.entries {
            if seen.insert(entry.key.clone()) {
                mapping.entries.push(entry);
            }
        }
    }
}

enum KeyText {
    Text(String),
    /// A scalar with a single string form.
    Taken(String),
    Refused,
}

fn key_text(key: &Kind) -> KeyText {
    match key {
        Kind::String(text) => KeyText::Text(text.clone()),
        Kind::Integer(number) => KeyText::Taken(number.to_string()),
        Kind::Boolean(boolean) => KeyText::Taken(boolean.to_string()),
        Kind::Null
        | Kind::HugeInteger
        | Kind::Float(_)
        | Kind::Sequence(_)
        | Kind::Mapping(_)
        | Kind::Tagged => KeyText::Refused,
    }
}
