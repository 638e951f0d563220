//! The tree of a configuration file's values: what the reader of a configuration sees of it.

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
    /// An integer that a signed or an unsigned type of 64 bits can hold.
    Integer(i128),
    /// One that none of them can hold.
    HugeInteger,
    Float(f64),
    String(String),
    Sequence(Vec<Node>),
    Mapping(Mapping),
    /// Something with a tag of its own (`!vault …`), whose meaning is unknown.
    Tagged,
}

/// A mapping with its merge keys resolved and its keys turned into strings.
#[derive(Debug, Clone, Default)]
pub(super) struct Mapping {
    pub(super) entries: Vec<Entry>,
    /// What was wrong with its keys.
    pub(super) flaws: Vec<Flaw>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_id: usize,
    pub(super) value: Node,
}

/// Something wrong or doubtful with a mapping's key.
#[derive(Debug, Clone)]
pub(super) struct Flaw {
    /// The node it is about.
    pub(super) id: usize,
    /// The key, as far as it has a text.
    pub(super) key: String,
    pub(super) kind: FlawKind,
}

#[derive(Debug, Clone)]
pub(super) enum FlawKind {
    /// Given before.
    Duplicate,
    /// Not a string, but with one way only to write it as one.
    KeyTaken,
    /// Not a string.
    KeyRefused,
    /// `<<` with something else than a mapping or a list of mappings.
    Merge,
}
