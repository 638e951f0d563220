//! Watching for a new deployment: what worker-manager answers, what it does to the worker, and what is logged.

mod program;
mod server;
mod sources;
