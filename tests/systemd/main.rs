//! start-worker under the real systemd: the shipped units on machines that boot, reboot and are switched off, without
//! any of that happening to the host.
//!
//! [`machine`] is such a machine, `boot.sh` makes it, [`untouched`] looks after the host. docs/architecture.md tells how
//! they work. They need root and some packages; where those are missing the tests say so and pass, but fail with `CI`.

#[cfg(test)]
mod cloud;
#[cfg(test)]
mod desktop;
#[cfg(test)]
#[path = "../support/fake_metadata/mod.rs"]
#[expect(dead_code, reason = "a part of it is used here")]
mod fake_metadata;
#[cfg(test)]
#[path = "../support/fake_taskcluster/mod.rs"]
mod fake_taskcluster;
#[cfg(test)]
mod harness;
#[cfg(test)]
#[path = "../support/hung_mount.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod hung_mount;
#[cfg(test)]
mod instances;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod leftovers;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod migration;
#[cfg(test)]
mod package;
#[cfg(test)]
#[path = "../package/build.rs"]
#[expect(dead_code, reason = "the tests of the package ask for more")]
mod package_build;
#[cfg(test)]
mod possible;
#[cfg(test)]
mod ready;
#[cfg(test)]
mod reboots;
#[cfg(test)]
#[path = "../e2e/support/record.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod record;
#[cfg(test)]
mod refusals;
#[cfg(test)]
#[path = "../support/secrets.rs"]
mod secrets;
#[cfg(test)]
mod service;
#[cfg(test)]
mod stopping;
#[cfg(test)]
mod untouched;
