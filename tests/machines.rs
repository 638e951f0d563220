//! What needs root, and a machine of its own: units under the real systemd, containers, and the Debian package.
#![cfg(test)]

mod containers;
mod package;
mod systemd;
