//! Parses YAML text into a tree of nodes. The only file that uses the YAML crate.
//!
//! The crate's own `Value` loses information that the reader of a configuration needs: duplicate keys, integers beyond
//! 64 bits, the position of each key. A visitor of ours therefore builds the tree, and numbers the nodes in the order
//! of visiting. The crate only reports the position of an error. To find a node's line, the text is parsed again with
//! an error raised at the node's number ([`Document::place`]). That is only done for a diagnostic.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::node::{Kind, Node};
use super::{anchors, merge};

/// Aliases can turn a small text into a huge tree …
const MOST_NODES: usize = 200_000;

/// … of a few long strings. (In bytes: keys, values and tags. No file is that large.)
const MOST_TEXT: usize = 8 << 20;

/// The YAML crate's time grows with the square of the depth of `[[[…`; its own limit (128) applies only afterwards.
const MOST_OPEN_BRACKETS: usize = 2_000;

/// Every position takes a pass over the text: a large file with thousands of faults only gets the first ones. The
/// passes take at most a second or two.
const MOST_BYTES_AGAIN: usize = 8 << 20;

/// The cost of visiting a node, in bytes.
const BYTES_A_NODE: usize = 16;

/// The position of a node, and its text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The line number, from 1.
    pub(super) line: usize,
    /// A scalar's text, without quotes.
    pub(super) text: String,
    /// True for a scalar without quotes.
    pub(super) plain: bool,
}

/// The text is not YAML, or too large.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) line: Option<usize>,
    pub(super) message: String,
}

/// A file's text and its tree.
#[derive(Debug)]
pub(super) struct Document {
    text: String,
    pub(super) root: Node,
    /// The number of bytes that have been parsed again.
    parsed_again: Cell<usize>,
}

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, SyntaxError> {
        let text = checked_text(bytes)?;
        let walk = Walk::default();
        let root = walk.run(text).map_err(|error| {
            let mut explained = walk.explain(&error);
            if let Some(second) = walk.second.get() {
                let walk = Walk { target: Some(second), ..Walk::default() };
                explained.line = walk.run(text).err().and_then(|error| Some(error.location()?.line()));
            }
            explained
        })?;
        Ok(Self { text: text.to_owned(), root, parsed_again: Cell::new(0) })
    }

    /// The position of the node with number `id`. Parses the whole text; `None` if that has been done too often.
    pub(super) fn place(&self, id: usize) -> Option<Place> {
        let parsed_again = self.parsed_again.get().saturating_add(self.text.len());
        if parsed_again > MOST_BYTES_AGAIN {
            return None;
        }
        self.parsed_again.set(parsed_again);
        let walk = Walk { target: Some(id), ..Walk::default() };
        let found = walk.run(&self.text);
        // Aliases can make a short text expensive to visit.
        let visited = walk.next.get().saturating_mul(BYTES_A_NODE);
        self.parsed_again.set(self.parsed_again.get().saturating_add(visited));
        let location = found.err()?.location()?;
        let plain = self.text.get(location.index()..).is_some_and(starts_plain);
        Some(Place { line: location.line(), text: walk.found.take()?, plain })
    }

    /// The line in which an anchor is defined twice.
    pub(super) fn repeated_anchor(&self) -> Option<usize> {
        anchors::repeated(&self.text)
    }
}

/// Formats a value as YAML, as in the runner configuration.
pub fn to_yaml(value: &serde_json::Value) -> String {
    serde_yaml::to_string(value).unwrap_or_else(|_| value.to_string())
}

/// Returns true if a scalar that begins here, after an anchor and a tag, is written without quotes.
fn starts_plain(text: &str) -> bool {
    let mut rest = text;
    while rest.starts_with(['&', '!']) {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        rest = rest.get(end..).unwrap_or_default().trim_start();
    }
    !rest.starts_with(['\'', '"', '|', '>'])
}

fn checked_text(bytes: &[u8]) -> Result<&str, SyntaxError> {
    let at = |end: usize, message: &str| {
        let before = bytes.get(..end).unwrap_or_default();
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        Err(SyntaxError { line: Some(line), message: message.to_owned() })
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return at(error.valid_up_to(), "not valid UTF-8; save the file as UTF-8"),
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let start = bytes.len() - text.len();
    // The YAML crate refuses these as well, but cannot report their position.
    if let Some((index, _)) = text.char_indices().find(|(_, letter)| !printable(*letter)) {
        return at(start + index, "a control character, which YAML does not allow; remove it");
    }
    let mut open = 0_usize;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MOST_OPEN_BRACKETS {
            return at(start + index, "too many brackets are open; close them");
        }
    }
    Ok(text)
}

/// The printable characters of YAML 1.2, section 5.1.
fn printable(letter: char) -> bool {
    matches!(letter, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}'
        | '\u{10000}'..)
        && letter != '\u{feff}'
}

/// One pass over the text.
#[derive(Default)]
struct Walk {
    /// The number of the next node.
    next: Cell<usize>,
    /// The node to stop at.
    target: Option<usize>,
    /// The text of that node.
    found: RefCell<Option<String>>,
    too_many: Cell<bool>,
    /// The number of bytes of text seen so far.
    text: Cell<usize>,
    /// The node of a second document.
    second: Cell<Option<usize>>,
}

impl Walk {
    fn run(&self, text: &str) -> Result<Node, serde_yaml::Error> {
        let mut documents = serde_yaml::Deserializer::from_str(text);
        let root = match documents.next() {
            Some(first) => self.deserialize(first)?,
            None => return self.deserialize(serde_yaml::Deserializer::from_str(text)),
        };
        for further in documents {
            // YAML generators often end with `---`, which begins a document without content.
            let Node { id, kind } = self.deserialize(further)?;
            if !matches!(kind, Kind::Null) {
                self.second.set(Some(id));
                return Err(de::Error::custom("a second document"));
            }
        }
        Ok(root)
    }

    /// Counts a text before it is stored.
    fn count<E: de::Error>(&self, text: &str) -> Result<(), E> {
        self.text.set(self.text.get().saturating_add(text.len()));
        if self.text.get() > MOST_TEXT { Err(E::custom("stopped")) } else { Ok(()) }
    }

    fn explain(&self, error: &serde_yaml::Error) -> SyntaxError {
        let line = error.location().map(|location| location.line());
        let text = error.to_string();
        let message = if self.too_many.get() || text.starts_with("repetition limit") {
            format!("more than {MOST_NODES} values once aliases are resolved; use fewer")
        } else if self.text.get() > MOST_TEXT {
            format!(
                "more than {MOST_TEXT} bytes of text once aliases are resolved; use fewer, or for shorter texts"
            )
        } else if self.second.get().is_some() {
            "a second document with content, which nothing would read; remove it, or the `---` before it"
                .to_owned()
        } else if text.starts_with("recursion limit") {
            "nested too deeply; at most 128 levels".to_owned()
        } else if text.contains("invalid value: ") || text.contains("invalid type: ") {
            // The crate's own text would show the value, which may be a secret.
            "a value does not fit its tag (`!!…`); remove the tag".to_owned()
        } else if text.contains(['"', '`']) {
            // No message of the parser currently quotes anything.
            "not valid YAML".to_owned()
        } else {
            let place = error.location().map(|at| format!(" at line {} column {}", at.line(), at.column()));
            let text = place.map_or(text.clone(), |place| text.replacen(&place, "", 1));
            format!("not valid YAML: {text}")
        };
        SyntaxError { line, message }
    }
}

impl<'de> DeserializeSeed<'de> for &Walk {
    type Value = Node;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let id = self.next.replace(self.next.get() + 1);
        if self.target == Some(id) {
            // For scalars and for other nodes, this ends in an error, which carries the position.
            self.found.replace(Some(String::new()));
            deserializer.deserialize_str(Stop(self))?;
        } else if id >= MOST_NODES {
            self.too_many.set(true);
            deserializer.deserialize_str(Stop(self))?;
        } else {
            return Ok(Node { id, kind: deserializer.deserialize_any(Build(self))? });
        }
        Err(de::Error::custom("stopped"))
    }
}

/// Raises an error at any node.
struct Stop<'w>(&'w Walk);

impl Visitor<'_> for Stop<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.0.found.replace(Some(text.to_owned()));
        Err(E::custom("stopped"))
    }
}

/// Builds a node's kind.
struct Build<'w>(&'w Walk);

impl<'de> Visitor<'de> for Build<'_> {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Integer(value.into()))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Kind, E> {
        Ok(Kind::HugeInteger)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Kind, E> {
        Ok(Kind::HugeInteger)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Float(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Kind, E> {
        self.0.count(text)?;
        Ok(Kind::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = items.next_element_seed(self.0)? {
            nodes.push(node);
        }
        Ok(Kind::Sequence(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Kind, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = entries.next_entry_seed(self.0, self.0)? {
            pairs.push(pair);
        }
        Ok(Kind::Mapping(merge::mapping(pairs)))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Kind, A::Error> {
        let (tag, content) = tagged.variant::<String>()?;
        self.0.count(&tag)?;
        content.newtype_variant_seed(self.0)?;
        Ok(Kind::Tagged)
    }
}
