//! A Taskcluster to register with, over HTTP and over HTTPS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use crate::Result;

use test_support::fake_taskcluster::FakeTaskcluster;

pub(crate) const POOL: &str = "example/linux";
pub(crate) const GROUP: &str = "office";
pub(crate) const WORKER: &str = "bench-01";
pub(crate) const STATIC_SECRET: &str = "not-a-secret-but-secrets-have-44-characters-";

/// The authority that vouches for the HTTPS server.
pub(crate) const AUTHORITY: &str = include_str!("../../tests/fixtures/tls/ca.pem");

/// A Taskcluster with one static worker; it ends when it is dropped.
pub(crate) struct Taskcluster(FakeTaskcluster);

impl Taskcluster {
    pub(crate) fn start() -> Self {
        let fake = FakeTaskcluster::start();
        fake.set_pool(POOL, json!({"config": {"workerConfig": {"sentryProject": "example"}}}));
        fake.add_static_worker(POOL, GROUP, WORKER, STATIC_SECRET);
        fake.set_secret(&format!("worker-pool:{POOL}"), json!({"config": {"key": "value"}, "files": []}));
        Self(fake)
    }

    /// Its root URL, over HTTP.
    pub(crate) fn http(&self) -> String {
        self.0.url()
    }

    /// Serves the same over HTTPS on another port, which relays to the first.
    pub(crate) fn https(&self) -> Result<String> {
        let chain = CertificateDer::from_pem_slice(include_bytes!("../../tests/fixtures/tls/server.pem"))?;
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../tests/fixtures/tls/server.key"))?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)?;
        let (config, behind) = (Arc::new(config), self.0.address());
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("https://{}", listener.local_addr()?);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(io::Result::ok) {
                let config = config.clone();
                // A client that goes away in the middle is its own affair.
                thread::spawn(move || {
                    ServerConnection::new(config).is_ok_and(|tls| relay(tls, stream, behind).is_ok())
                });
            }
        });
        Ok(url)
    }
}

/// Relays one request and its answer.
fn relay(tls: ServerConnection, stream: TcpStream, behind: SocketAddr) -> io::Result<()> {
    let mut front = StreamOwned::new(tls, stream);
    let (mut request, mut block) = (Vec::new(), [0; 4096]);
    let end = loop {
        if let Some(end) = memchr::memmem::find(&request, b"\r\n\r\n") {
            break end + 4;
        }
        match front.read(&mut block)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&block[..count]),
        }
    };
    let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    while request.len() < end + length.unwrap_or(0) {
        match front.read(&mut block)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&block[..count]),
        }
    }
    let mut back = TcpStream::connect(behind)?;
    // Its answer ends with the connection, and so does ours.
    let (head, body) = request.split_at(end - 2);
    back.write_all(&[head, b"Connection: close\r\n", body].concat())?;
    let mut answer = Vec::new();
    back.read_to_end(&mut answer)?;
    front.write_all(&answer)?;
    front.conn.send_close_notify();
    front.flush()
}
