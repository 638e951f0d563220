//! What each provider makes of its cloud's metadata service, played by a fake that is as strict as the real one.

#[cfg(test)]
#[path = "../support/captured.rs"]
mod captured;
#[cfg(test)]
#[path = "../support/fake_metadata/mod.rs"]
mod fake_metadata;
#[cfg(test)]
#[path = "../support/frozen.rs"]
mod frozen;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod interruption;
#[cfg(test)]
mod real_address;
#[cfg(test)]
mod scene;
