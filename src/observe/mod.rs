//! What others can see of the runner. Observers decide nothing.

pub mod logging;
pub mod status;
pub mod systemd;
