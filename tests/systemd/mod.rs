//! start-worker under the real systemd: the shipped units on machines that boot, reboot and are switched off, without
//! any of that happening to the host.
//!
//! [`machine`] is such a machine, `boot.sh` makes it, [`untouched`] looks after the host. docs/architecture.md tells how
//! they work. They need root and some packages; where those are missing the tests say so and pass, but fail with `CI`.

mod cloud;
mod desktop;
mod harness;
mod instances;
mod journal;
mod leftovers;
mod machine;
mod migration;
mod package;
mod possible;
mod ready;
mod reboots;
mod refusals;
mod service;
mod stopping;
mod untouched;
