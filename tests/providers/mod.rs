//! Each provider with its cloud's metadata service, played by a fake that is as strict as the real one.

mod identity;
mod interruption;
mod real_address;
mod scene;
