//! What others can see of the runner. Observers decide nothing.

mod health;
pub mod logging;
pub mod metrics;
pub mod status;
pub mod systemd;
mod view;

pub use view::View;
