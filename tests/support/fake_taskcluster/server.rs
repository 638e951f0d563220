//! The HTTP server: a thread with a runtime of its own, so that tests without one can use the fake, too.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, USER_AGENT};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use super::Shared;
use super::answer::{Answer, Broken, Cut, Payload};
use super::api::{self, Route};
use super::control;
use super::faults::{Fault, Met};
use super::record;

/// The longest payload: what Taskcluster's services take.
const MAX_PAYLOAD: usize = 10 << 20;

/// Time for which a closed address may still be in use.
const FREE_AGAIN: Duration = Duration::from_secs(5);

/// A command to the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Listens at this address; the answer is the one it got.
    Listen(SocketAddr, SyncSender<io::Result<SocketAddr>>),
    /// Stops to listen, closes all connections, and says when that is done.
    Close(SyncSender<()>),
    /// Closes, and listens again at the same address after this time.
    Pause(Duration, SyncSender<()>),
}

/// Starts the thread. It ends when the sender of commands is dropped.
pub(super) fn start(shared: Arc<Shared>, commands: Receiver<Command>) -> JoinHandle<()> {
    let thread = std::thread::Builder::new().name("fake-taskcluster".to_owned());
    thread.spawn(move || run(&shared, commands)).expect("a thread")
}

fn run(shared: &Arc<Shared>, commands: Receiver<Command>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server =
        Server { shared: Arc::clone(shared), listener: None, again: None, connections: JoinSet::new() };
    runtime.block_on(server.obey(commands));
}

struct Server {
    shared: Arc<Shared>,
    listener: Option<TcpListener>,
    /// The time and the address for listening again.
    again: Option<(Instant, SocketAddr)>,
    connections: JoinSet<()>,
}

impl Server {
    async fn obey(mut self, mut commands: Receiver<Command>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.perform(command).await,
                    None => return,
                },
                address = due(self.again) => {
                    self.listen(address).await.expect("the address is free again");
                }
                accepted = accept(self.listener.as_ref()) => {
                    // Out of descriptors, or the connection has gone already. The next accept may succeed.
                    if let Ok((stream, _)) = accepted {
                        self.connected(stream);
                    }
                }
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    async fn perform(&mut self, command: Command) {
        match command {
            Command::Listen(address, answer) => {
                let listening = self.listen(address).await;
                answer.send(listening).ok();
            }
            Command::Close(answer) => {
                self.close().await;
                answer.send(()).ok();
            }
            Command::Pause(pause, answer) => {
                let address = self.listener.as_ref().and_then(|listener| listener.local_addr().ok());
                self.close().await;
                self.again = address.map(|address| (Instant::now() + pause, address));
                answer.send(()).ok();
            }
        }
    }

    async fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = bind(address).await?;
        let address = listener.local_addr()?;
        self.listener = Some(listener);
        self.again = None;
        Ok(address)
    }

    async fn close(&mut self) {
        self.listener = None;
        self.again = None;
        self.connections.shutdown().await;
    }

    fn connected(&mut self, stream: TcpStream) {
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        if self.shared.faults.at_accept() {
            stream.set_zero_linger().ok();
            return;
        }
        stream.set_nodelay(true).ok();
        let reset = Arc::new(AtomicBool::new(false));
        let wire = TokioIo::new(Wire { stream, reset: Arc::clone(&reset) });
        let shared = Arc::clone(&self.shared);
        self.connections.spawn(async move {
            let service = service_fn(move |request| {
                let (shared, reset) = (Arc::clone(&shared), Arc::clone(&reset));
                async move { serve(&shared, &reset, request).await }
            });
            // Errors are the client's, or intended by the script.
            http1::Builder::new().serve_connection(wire, service).await.ok();
        });
    }
}

/// A process that is being forked at this moment may still hold what was closed before, until its exec.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let end = Instant::now() + FREE_AGAIN;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            bound => return bound,
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn due(again: Option<(Instant, SocketAddr)>) -> SocketAddr {
    match again {
        Some((moment, address)) => {
            tokio::time::sleep_until(moment.into()).await;
            address
        }
        None => std::future::pending().await,
    }
}

/// A connection that can end with a reset.
struct Wire {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            self.stream.set_zero_linger().ok();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A request without its payload.
struct Head {
    method: String,
    resource: String,
    host: String,
    authorization: Option<String>,
    content_type: Option<String>,
    user_agent: Option<String>,
    gzip: bool,
}

impl Head {
    fn of(request: &Request<Incoming>) -> Self {
        let header = |name: HeaderName| {
            request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let uri = request.uri();
        Self {
            method: request.method().to_string(),
            resource: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            host: header(HOST).unwrap_or_default(),
            authorization: header(AUTHORIZATION),
            content_type: header(CONTENT_TYPE),
            user_agent: header(USER_AGENT),
            gzip: header(ACCEPT_ENCODING).is_some_and(|kinds| kinds.contains("gzip")),
        }
    }

    fn path(&self) -> &str {
        self.resource.split('?').next().unwrap_or_default()
    }
}

/// Answers one request; an error is a connection that ends without an answer.
async fn serve(
    shared: &Arc<Shared>,
    reset: &AtomicBool,
    request: Request<Incoming>,
) -> Result<Response<Payload>, Broken> {
    let head = Head::of(&request);
    if shared.control.load(Ordering::Relaxed) && head.path().starts_with("/fake/") {
        let payload = payload(request).await?;
        let answer = control::perform(shared, &head.method, head.path(), &payload);
        return Ok(respond(shared, &head, answer, None));
    }
    let route = Route::find(&head.method, head.path());
    let number = shared.record.arrived(record::Request {
        at: Instant::now(),
        method: head.method.clone(),
        path: head.resource.clone(),
        call: route.call.name(),
        signed: head.authorization.is_some(),
        user_agent: head.user_agent.clone(),
        body: None,
        status: None,
        performed: false,
        refusal: None,
    });
    let mut exchange = Exchange { shared, number, route, head, cut: None, performed: false };
    let answer = exchange.answer(request).await;
    if let Ok(answer) = &answer {
        shared.record.update(number, |request| {
            request.status = Some(answer.status);
            request.performed = exchange.performed && exchange.cut.is_none();
            request.refusal = refusal(answer);
        });
    } else {
        reset.store(true, Ordering::Relaxed);
    }
    shared.record.done(number);
    answer.map(|answer| respond(shared, &exchange.head, answer, exchange.cut))
}

/// A refusal's code and its message's first line.
fn refusal(answer: &Answer) -> Option<String> {
    let body: serde_json::Value =
        (answer.status >= 400).then(|| serde_json::from_str(&answer.body).ok()).flatten()?;
    let first = body["message"].as_str()?.lines().find(|line| !line.is_empty())?;
    Some(format!("{}: {first}", body["code"].as_str()?))
}

fn respond(shared: &Shared, head: &Head, answer: Answer, cut: Option<Cut>) -> Response<Payload> {
    answer.into_response(&shared.date(), head.gzip, cut)
}

async fn payload(request: Request<Incoming>) -> Result<Bytes, Broken> {
    Ok(Limited::new(request.into_body(), MAX_PAYLOAD).collect().await.map_err(|_| Broken)?.to_bytes())
}

/// One request on its way to its answer.
struct Exchange<'a> {
    shared: &'a Arc<Shared>,
    number: usize,
    route: Route,
    head: Head,
    cut: Option<Cut>,
    performed: bool,
}

impl Exchange<'_> {
    /// The answer, or a reset.
    async fn answer(&mut self, request: Request<Incoming>) -> Result<Answer, Broken> {
        let met = self.shared.faults.at_request(self.route.call.name(), self.head.authorization.is_some());
        let payload = payload(request).await?;
        if let Ok(body) = serde_json::from_slice(&payload) {
            self.shared.record.update(self.number, |request| request.body = Some(body));
        }
        self.performed = met.is_none();
        let Some(mut met) = met else { return Ok(self.perform(&payload)) };
        if let Some(answer) = before(&mut met, self, &payload).await? {
            return Ok(answer);
        }
        let answer = self.perform(&payload);
        self.performed = true;
        match met.fault {
            Fault::AnswerLost => return Err(Broken),
            Fault::LateAnswer(delay) => tokio::time::sleep(delay).await,
            Fault::CutOff(cut) => self.cut = Some(cut),
            Fault::NearlyJson => return Ok(Answer { body: format!(")]}}'\n{}", answer.body), ..answer }),
            _ => {}
        }
        Ok(answer)
    }

    fn perform(&self, payload: &[u8]) -> Answer {
        let head = &self.head;
        let incoming = api::Incoming {
            method: &head.method,
            resource: &head.resource,
            host: &head.host,
            authorization: head.authorization.as_deref(),
            content_type: head.content_type.as_deref(),
            payload,
            now: self.shared.now(),
        };
        api::perform(&mut self.shared.state(), &self.route, &incoming)
    }
}

/// The part of a fault before the call is performed. An answer replaces the call.
async fn before(met: &mut Met, exchange: &Exchange<'_>, payload: &[u8]) -> Result<Option<Answer>, Broken> {
    match &met.fault {
        Fault::Reset => return Err(Broken),
        Fault::Hang => met.released().await,
        Fault::HangFor(time) => tokio::time::sleep(*time).await,
        Fault::InternalError => return Ok(Some(api::stumble(&exchange.route, exchange.shared.now()))),
        Fault::Answer(answer) => return Ok(Some(answer.clone())),
        Fault::Repeat(spelling) => return Ok(Some(spelling.answer(payload))),
        Fault::ResetAtAccept
        | Fault::AnswerLost
        | Fault::LateAnswer(_)
        | Fault::CutOff(_)
        | Fault::NearlyJson => {}
    }
    Ok(None)
}
