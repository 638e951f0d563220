//! What an operator sees from outside: the status in every state, metrics as a real Prometheus scrapes them, health, and
//! what `check --online` tells before anything is started.

#![expect(clippy::float_cmp, reason = "counts are whole numbers")]

#[cfg(test)]
mod export;
#[cfg(test)]
#[path = "../support/fake_metadata/mod.rs"]
mod fake_metadata;
#[cfg(test)]
#[path = "../support/fake_taskcluster/mod.rs"]
mod fake_taskcluster;
#[cfg(test)]
mod files;
#[cfg(test)]
#[path = "../clouds/machine.rs"]
#[expect(dead_code, reason = "the machines of tests/clouds, of which this program uses a part")]
mod machine;
#[cfg(test)]
mod online;
#[cfg(test)]
mod prometheus;
#[cfg(test)]
#[path = "../support/secrets.rs"]
mod secrets;
#[cfg(test)]
mod states;
#[cfg(test)]
#[path = "../e2e/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the harness of tests/e2e, of which this program uses a part")]
mod support;
#[cfg(test)]
mod terminal;
