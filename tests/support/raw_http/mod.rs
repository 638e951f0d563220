//! An HTTP client for tests of HTTP servers: it sends exactly what the test says, including invalid signatures. Not the
//! product's client, which is tested elsewhere.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Time limit of an answer that takes milliseconds.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), ..Self::default() }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        let mut request = self.header("Content-Type", "application/json");
        request.body = body.to_string().into_bytes();
        request
    }

    /// Adds this signature.
    #[must_use]
    pub fn signed(self, address: SocketAddr, signature: &Signature<'_>) -> Self {
        let header = signature.header(&self.method, address, &self.path);
        self.header("Authorization", &header)
    }

    /// Sends it over a new connection and reads the answer to its end.
    pub fn send(&self, address: SocketAddr) -> io::Result<Answer> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut lines = vec![format!("{} {} HTTP/1.1", self.method, self.path)];
        if !self.headers.iter().any(|(name, _)| name == "Host") {
            lines.push(format!("Host: {address}"));
        }
        lines.extend(self.headers.iter().map(|(name, value)| format!("{name}: {value}")));
        lines.push(format!("Content-Length: {}\r\nConnection: close\r\n\r\n", self.body.len()));
        let mut bytes = lines.join("\r\n").into_bytes();
        bytes.extend(&self.body);
        stream.write_all(&bytes)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        parse(&answer)
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body, if it is JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

fn cut_off() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

fn parse(answer: &[u8]) -> io::Result<Answer> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(cut_off)?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or_else(cut_off)?;
    let pair = |line: &str| line.split_once(": ").map(|(key, value)| (key.to_lowercase(), value.to_owned()));
    let mut answer =
        Answer { status, headers: lines.filter_map(pair).collect(), body: answer[end + 4..].to_vec() };
    if answer.header("transfer-encoding").is_some() {
        answer.body = unchunked(&answer.body).ok_or_else(cut_off)?;
    } else if answer.header("content-length").and_then(|length| length.parse().ok())
        != Some(answer.body.len())
    {
        return Err(cut_off());
    }
    if answer.header("content-encoding") == Some("gzip") {
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(answer.body.as_slice()).read_to_end(&mut text)?;
        answer.body = text;
    }
    Ok(answer)
}

/// The bytes of all chunks; `None` if the last one is missing.
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(rest.get(..end)?).ok()?, 16).ok()?;
        let chunk = rest.get(end + 2..end + 2 + length)?;
        if length == 0 {
            return Some(bytes);
        }
        bytes.extend(chunk);
        rest = rest.get(end + 2 + length + 2..)?;
    }
}

/// The parameters of a signature.
#[derive(Debug, Clone, Default)]
pub struct Signature<'a> {
    pub client_id: &'a str,
    pub access_token: &'a str,
    /// Before it is encoded.
    pub ext: Option<String>,
    /// The payload's hash, as bytes.
    pub hash: Option<Vec<u8>>,
    /// The number of seconds by which the signer's clock is behind.
    pub behind: u64,
    /// `None`: a random nonce.
    pub nonce: Option<String>,
}

impl<'a> Signature<'a> {
    /// Creates a signature, with a certificate as a string of JSON if there is one.
    pub fn new(client_id: &'a str, access_token: &'a str, certificate: Option<&str>) -> Self {
        // Parsed and written again, as a client does; the scopes keep their order.
        let parsed = certificate.map(|text| serde_json::from_str::<Value>(text).expect("JSON"));
        let ext = parsed.map(|certificate| json!({"certificate": certificate}).to_string());
        Self { client_id, access_token, ext, ..Self::default() }
    }

    fn header(&self, method: &str, address: SocketAddr, path: &str) -> String {
        let key = hawk::Key::new(self.access_token.as_bytes(), hawk::SHA256).expect("a key");
        let credentials = hawk::Credentials { id: self.client_id.to_owned(), key };
        let host = address.ip().to_string();
        let ext = self.ext.as_ref().map(|ext| STANDARD.encode(ext));
        let request = hawk::RequestBuilder::new(method, &host, address.port(), path)
            .ext(ext.as_deref())
            .hash(self.hash.as_deref())
            .request();
        let nonce = self.nonce.clone().unwrap_or_else(|| format!("{:016x}", fastrand::u64(..)));
        let seconds = u64::try_from(jiff::Timestamp::now().as_second()).expect("after 1970") - self.behind;
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let header = request.make_header_full(&credentials, at, nonce).expect("a header");
        format!("Hawk {header}")
    }
}
