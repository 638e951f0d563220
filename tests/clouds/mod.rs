//! A cloud's machine from boot to end: the real binary, a metadata service, a Taskcluster and a scripted worker.

mod cached;
mod causes;
mod deadline;
mod going_down;
mod identity;
mod interruption;
mod leaving;
pub(crate) mod machine;
mod metadata_faults;
mod provisioner;
mod real_address;
mod refused;
mod removal;
mod stops;
