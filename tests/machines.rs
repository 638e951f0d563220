//! Tests that need root and a machine of their own: units under the real systemd, containers, and the Debian package.
#![cfg(test)]

mod containers;
mod package;
mod systemd;
