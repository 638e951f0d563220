//! The `start-worker` command.

fn main() {}
