//! Telemetry: everything that observers can see of the runner. Observers make no decisions.

pub mod counters;
pub mod current_retry;
pub mod event_log;
pub mod events;
mod health;
pub mod last_run;
pub mod liveness;
pub mod logging;
pub mod metrics;
pub mod recent_warnings;
pub mod service_manager;
pub mod status;
pub mod status_board;
mod view;

pub use view::View;
