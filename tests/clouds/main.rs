//! A cloud's machine from boot to end: the real binary, a metadata service, a Taskcluster and a scripted worker.

#[cfg(test)]
mod cached;
#[cfg(test)]
mod causes;
#[cfg(test)]
mod deadline;
#[cfg(test)]
#[path = "../support/fake_metadata/mod.rs"]
mod fake_metadata;
#[cfg(test)]
#[path = "../support/fake_taskcluster/mod.rs"]
mod fake_taskcluster;
#[cfg(test)]
mod going_down;
#[cfg(test)]
#[path = "../support/hung_disk.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod hung_disk;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod interruption;
#[cfg(test)]
mod leaving;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod metadata_faults;
#[cfg(test)]
mod provisioner;
#[cfg(test)]
mod real_address;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod removal;
#[cfg(test)]
#[path = "../support/secrets.rs"]
mod secrets;
#[cfg(test)]
mod stops;
#[cfg(test)]
#[path = "../e2e/support/mod.rs"]
#[expect(dead_code, reason = "other tests use other parts of it")]
mod support;
