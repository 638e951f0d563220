//! docs/containers.md: start-worker in containers, as root, as another user, and rootless. Each test is one claim of the
//! page, tried in each [`container::Kind`] of container; `container.sh` makes them without an engine. What they need is
//! `unshare`, `nsenter` and `setpriv` (util-linux) and a kernel that lets users have namespaces.

mod claims;
mod container;
mod image;
