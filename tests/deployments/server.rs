//! A worker-manager on loopback: answers each call as told, and records the calls.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// The answer to a call.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Answer(u16, String),
    /// Not at all, until the server is told otherwise.
    Silence,
}

impl Reply {
    pub(crate) fn ok(body: &Value) -> Self {
        Self::Answer(200, body.to_string())
    }

    /// As Taskcluster words it.
    pub(crate) fn lacks(scope: &str) -> Self {
        let message = format!(
            "Client ID worker/x does not have sufficient scopes and is missing the following scopes:\n\n```\n{scope}\n```\n\nThis request requires the client to satisfy the following scope expression:\n\n```\n{scope}\n```\n\n---\n\n* statusCode: 403"
        );
        Self::Answer(403, json!({"code": "InsufficientScopes", "message": message}).to_string())
    }

    pub(crate) fn terminate(terminate: bool, reason: &str) -> Self {
        Self::ok(&json!({"terminate": terminate, "reason": reason}))
    }

    /// A pool with this `config`.
    pub(crate) fn pool(config: &Value) -> Self {
        Self::ok(&json!({"workerPoolId": "pp/ww", "providerId": "p", "config": config}))
    }
}

#[derive(Default)]
struct Shared {
    replies: BTreeMap<&'static str, Reply>,
    /// The call, and who made it.
    requests: Vec<(&'static str, String)>,
    silent: Vec<TcpStream>,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) root_url: String,
    shared: Arc<Mutex<Shared>>,
}

pub(crate) const POOL: &str = "workerPool";
pub(crate) const TERMINATE: &str = "shouldWorkerTerminate";
pub(crate) const REGISTER: &str = "registerWorker";
/// Calls that no test looks at.
const OTHER: &str = "other";

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let root_url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { root_url, shared: Arc::default() };
        let shared = server.shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        server
    }

    /// From now on.
    pub(crate) fn tell(&self, call: &'static str, reply: Reply) {
        let mut shared = self.shared.lock().unwrap();
        shared.replies.insert(call, reply);
        for stream in shared.silent.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn asked(&self, call: &str) -> usize {
        self.shared.lock().unwrap().requests.iter().filter(|(name, _)| *name == call).count()
    }

    pub(crate) fn last_client(&self) -> String {
        self.shared.lock().unwrap().requests.last().unwrap().1.clone()
    }
}

fn serve(mut stream: TcpStream, shared: &Mutex<Shared>) {
    let Some((call, client)) = read(&stream) else { return };
    let mut shared = shared.lock().unwrap();
    shared.requests.push((call, client));
    match shared.replies.get(call) {
        Some(Reply::Silence) => shared.silent.push(stream),
        Some(Reply::Answer(status, body)) => {
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            );
        }
        None => {
            let _ = write!(stream, "HTTP/1.1 500 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
    }
}

/// Which call it is, and who makes it.
fn read(stream: &TcpStream) -> Option<(&'static str, String)> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let header = |name: &str| {
        let mut headers = lines.iter().skip(1).filter_map(|line| line.split_once(':'));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let length: u64 = header("content-length").map_or(0, |length| length.parse().unwrap());
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    let authorization = header("authorization").unwrap_or_default();
    let client = authorization.split_once("id=\"").and_then(|(_, rest)| rest.split_once('"'));
    let call = match lines.first()?.trim_end_matches(" HTTP/1.1") {
        "GET /api/worker-manager/v1/worker-pool/pp%2Fww" => POOL,
        "GET /api/worker-manager/v1/workers/pp%2Fww/wg/wi/should-terminate" => TERMINATE,
        "POST /api/worker-manager/v1/worker/register" => REGISTER,
        _ => OTHER,
    };
    Some((call, client.map_or_else(String::new, |(id, _)| id.to_owned())))
}
