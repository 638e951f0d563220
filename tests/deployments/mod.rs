//! Watching for a new deployment: worker-manager's answers, their effect on the worker, and the log.

mod program;
mod server;
mod sources;
