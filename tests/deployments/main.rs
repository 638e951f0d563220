//! Watching for a new deployment: what worker-manager answers, what it does to the worker, and what is logged.

#[cfg(test)]
#[path = "../support/captured.rs"]
#[expect(dead_code, reason = "metadata services are not asked here")]
mod captured;
#[cfg(test)]
mod program;
#[cfg(test)]
mod server;
#[cfg(test)]
mod sources;
