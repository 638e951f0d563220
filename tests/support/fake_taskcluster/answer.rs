//! Answers: a status, headers, and a body that may break off.

use std::convert::Infallible;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::Response;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use serde_json::{Value, json};

/// Minimum size of an answer that is compressed, if the client accepts that.
const COMPRESS_FROM: usize = 1024;

/// An answer before it is written.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Without the content length and the date.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// The way in which a body ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// In the middle, with the whole length announced.
    Length,
    /// In the middle of a chunked body: its last chunk never comes.
    Chunks,
}

impl Answer {
    /// A JSON answer in the services' form.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::text(status, "application/json; charset=utf-8", &body.to_string())
    }

    /// Status 200 with JSON.
    pub fn ok(body: &Value) -> Self {
        Self::json(200, body)
    }

    /// An answer with any text.
    pub fn text(status: u16, content_type: &str, body: &str) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self { status, headers, body: body.to_owned() }
    }

    /// The answer for an unknown path.
    pub fn not_found() -> Self {
        Self::json(404, &json!({"error": "Not found"}))
    }

    /// An error page of the proxy in front of the services.
    pub fn nginx(status: u16, reason: &str) -> Self {
        let page = format!(
            "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n<center><h1>{status} {reason}</h1>\
             </center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
        );
        Self::text(status, "text/html; charset=utf-8", &page)
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Converts the answer to a hyper response.
    pub fn into_response(self, date: &str, gzip: bool, cut: Option<Cut>) -> Response<Payload> {
        let compressed = gzip && self.body.len() >= COMPRESS_FROM && cut.is_none();
        let mut response = Response::builder().status(self.status).header("date", date);
        for (name, value) in &self.headers {
            response = response.header(name, value);
        }
        if compressed {
            response = response.header("content-encoding", "gzip").header("vary", "Accept-Encoding");
        }
        let body = if compressed { compress(&self.body) } else { Bytes::from(self.body) };
        response.body(Payload::new(body, cut, compressed)).expect("a valid answer")
    }
}

fn compress(text: &str) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).expect("memory takes all").into()
}

/// The error of a body that breaks off.
#[derive(Debug, thiserror::Error)]
#[error("the script says that the answer breaks off here")]
pub struct Broken;

impl From<Infallible> for Broken {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// A body in one piece.
pub struct Payload {
    data: Option<Bytes>,
    /// `None`: chunked.
    length: Option<u64>,
    /// True if it ends with an error.
    breaks: bool,
    flushed: bool,
}

impl Payload {
    fn new(data: Bytes, cut: Option<Cut>, compressed: bool) -> Self {
        let chunked = compressed || cut == Some(Cut::Chunks);
        let length = (!chunked).then_some(data.len() as u64);
        let breaks = cut.is_some();
        let data = if breaks { data.slice(..data.len() / 2) } else { data };
        Self { data: Some(data).filter(|data| !data.is_empty()), length, breaks, flushed: false }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if !self.breaks {
            return Poll::Ready(None);
        }
        // hyper flushes its data when a body is not ready, so that the first half arrives.
        if !std::mem::replace(&mut self.flushed, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(Broken)))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && !self.breaks
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
