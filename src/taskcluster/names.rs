//! Host name resolution, which depends on servers and files that can hang.

use std::io;
use std::net::ToSocketAddrs;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::host::blocking::Lane;

/// Time limit of a look-up, longer than that of any connection.
const TIME: Duration = Duration::from_secs(60);

/// Resolves names with the system's resolver (`getaddrinfo`), one at a time.
#[derive(Debug, Clone, Default)]
pub struct Names(Lane);

impl Names {
    /// Creates a resolver that runs in this lane.
    pub fn new(lane: Lane) -> Self {
        Self(lane)
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let lane = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let what = format!("the look-up of host {host}");
            // The port is taken from the URL.
            let found = lane.ask(&what, TIME, move || (host.as_str(), 0).to_socket_addrs());
            let found = found.await.map_err(io::Error::from).flatten()?;
            Ok(Box::new(found) as Addrs)
        })
    }
}
