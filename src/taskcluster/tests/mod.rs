//! Tests of the calls to Taskcluster: against a server on loopback, recorded answers, and scripted attempts.

pub(crate) mod attempts;
mod calls;
mod contract;
mod failures;
mod hawk;
mod log;
mod server;
mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;

use super::{Client, Proxies, WorkerName};
use crate::clock::{Clock, SystemClock};
use crate::credentials::Credentials;

/// A stopped clock.
struct Stopped(Timestamp);

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        self.0
    }
}

fn client(root_url: &str) -> Client {
    Client::new(root_url, &Proxies::default(), Arc::new(SystemClock)).unwrap()
}

/// A client that waits two seconds for an answer.
fn hasty_client(root_url: &str) -> Client {
    let limit = Duration::from_secs(2);
    Client::with_attempt_limit(root_url, &Proxies::default(), Arc::new(SystemClock), limit).unwrap()
}

fn credentials(certificate: Option<&str>) -> Credentials {
    Credentials {
        client_id: "worker/static/demo-provider/demo-pool/demo-group/worker-1".to_owned(),
        access_token: SecretString::from("fake-access-token"),
        certificate: certificate.map(SecretString::from),
        expires: None,
        obtained: None,
    }
}

fn worker(id: &str) -> WorkerName {
    WorkerName {
        worker_pool_id: "demo-provider/demo-pool".to_owned(),
        worker_group: "demo-group".to_owned(),
        worker_id: id.to_owned(),
    }
}

fn proof(secret: &str) -> BTreeMap<&'static str, SecretString> {
    BTreeMap::from([("staticSecret", SecretString::from(secret))])
}
