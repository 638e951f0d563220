//! The tree of values in a configuration file.

/// A value in the file.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Its number in the order of visiting.
    pub(super) id: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Null,
    Boolean(bool),
    /// An integer that fits into a signed or unsigned 64-bit type.
    Integer(i128),
    /// A larger integer.
    HugeInteger,
    Float(f64),
    String(String),
    Sequence(Vec<Node>),
    Mapping(Mapping),
    /// A value with a custom tag (`!vault …`), whose meaning is unknown.
    Tagged,
}

/// A mapping with its merge keys resolved and its keys converted to strings.
#[derive(Debug, Clone, Default)]
pub(super) struct Mapping {
    pub(super) entries: Vec<Entry>,
    /// The faults of its keys.
    pub(super) flaws: Vec<Flaw>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_id: usize,
    pub(super) value: Node,
}

/// A fault of a mapping's key.
#[derive(Debug, Clone)]
pub(super) struct Flaw {
    /// The faulty node.
    pub(super) id: usize,
    /// The key, if it has a text.
    pub(super) key: String,
    pub(super) kind: FlawKind,
}

#[derive(Debug, Clone)]
pub(super) enum FlawKind {
    /// Given before.
    Duplicate,
    /// Not a string, but with a single string form.
    KeyTaken,
    /// Not a string.
    KeyRefused,
    /// `<<` with a value other than a mapping or a list of mappings.
    Merge,
}
