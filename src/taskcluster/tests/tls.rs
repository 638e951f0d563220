//! TLS: the servers that the client trusts, tested with a certificate signed by an authority that no system knows.
//!
//! The certificates (tests/fixtures/tls) were made with openssl, are for localhost and 127.0.0.1, and are valid for 100
//! years.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{client, credentials, worker};
use crate::taskcluster::{CallError, Effort};

/// Passes the server's root URL to the process that trusts it.
const ROOT_URL: &str = "TEST_OF_TLS_ROOT_URL";

/// Answers one request. Returns the server's root URL.
fn serve() -> String {
    let chain =
        CertificateDer::from_pem_slice(include_bytes!("../../../tests/fixtures/tls/server.pem")).unwrap();
    let key =
        PrivateKeyDer::from_pem_slice(include_bytes!("../../../tests/fixtures/tls/server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream);
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            // A client that does not trust the server disconnects.
            if !matches!(stream.read(&mut byte), Ok(1)) {
                return;
            }
            request.push(byte[0]);
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}");
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
    format!("https://{address}")
}

async fn call(root_url: &str) -> Result<(), CallError> {
    client(root_url).remove_worker(&credentials(None), &worker("w"), Effort::Once).await
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_not_trusted() {
    let error = call(&serve()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.ends_with(": cannot connect: invalid peer certificate: UnknownIssuer"), "{text}");
    assert!(!error.refused() && !error.may_have_been_done());
}

#[tokio::test]
async fn the_authorities_of_ssl_cert_file_are_trusted() {
    // The variable is read once a process, so this test runs itself as a child.
    if let Ok(root_url) = std::env::var(ROOT_URL) {
        return call(&root_url).await.unwrap();
    }
    let authority = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/ca.pem");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "taskcluster::tests::tls::the_authorities_of_ssl_cert_file_are_trusted"])
        .env("SSL_CERT_FILE", authority)
        .env(ROOT_URL, serve())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && told.contains("1 passed"), "{told}");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_as_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let root_url = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let text = call(&root_url).await.unwrap_err().to_string();
    assert!(text.contains(": cannot connect: received corrupt message of type InvalidContentType; this port does not speak TLS"), "{text}");
}
