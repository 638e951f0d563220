//! A worker that behaves, or misbehaves, as its arguments say.

fn main() {}
