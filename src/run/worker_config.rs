//! The worker configuration: merged from its sources, each leaf with the source it came from.

/// A merged worker configuration.
#[derive(Debug, Clone)]
pub struct Merged;
