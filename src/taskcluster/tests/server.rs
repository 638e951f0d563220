//! A loopback server that answers one request a connection with scripted bytes, and records the requests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A scripted reply.
#[derive(Clone)]
pub(super) enum Reply {
    /// Sends these bytes and closes the connection.
    Bytes(Vec<u8>),
    /// Never answers.
    Silence,
    /// Breaks the connection.
    Reset,
}

impl Reply {
    pub(super) fn json(status: u16, body: &str) -> Self {
        Self::with_headers(status, "Content-Type: application/json; charset=utf-8\r\n", body)
    }

    pub(super) fn with_headers(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        Self::Bytes(text.into_bytes())
    }
}

/// A recorded request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// `GET /path`, without the version.
    pub(super) line: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

pub(super) struct Server {
    pub(super) root_url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers requests with these replies, in order.
    pub(super) async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let root_url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let mut replies: VecDeque<Reply> = replies.into_iter().collect();
        let kept = requests.clone();
        let task = tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                match replies.pop_front() {
                    // Unread data turns the closing into a reset.
                    Some(Reply::Reset) => stream.readable().await.unwrap(),
                    Some(Reply::Silence) => {
                        let request = read(&mut stream).await;
                        kept.lock().unwrap().push(request);
                        silent.push(stream);
                    }
                    Some(Reply::Bytes(bytes)) => {
                        let request = read(&mut stream).await;
                        kept.lock().unwrap().push(request);
                        let _ = stream.write_all(&bytes).await;
                        let _ = stream.shutdown().await;
                    }
                    None => panic!("one request too many"),
                }
            }
        });
        Self { root_url, requests, task }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// An error's text, with the port replaced by a constant host.
    pub(super) fn shown(&self, error: &impl ToString) -> String {
        error.to_string().replace(&self.root_url, "http://tc.example.com")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(stream: &mut TcpStream) -> Request {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the request broke off");
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<_> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, length)| length.parse().unwrap());
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        assert!(stream.read_buf(&mut body).await.unwrap() > 0, "the request broke off");
    }
    Request { line, headers, body: String::from_utf8(body).unwrap() }
}
