//! HTTP, TLS and proxies: transports a request to Taskcluster, and explains a failure to do so.
//!
//! TLS is rustls with ring. Loading the system's roots (or those of `SSL_CERT_FILE`) takes 4 ms and half a mebibyte, so
//! they are loaded once, at the first call, and only for TLS. Connections are not kept for long, so that a waiting
//! runner does not wake up.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{NoProxy, Proxy, RequestBuilder, Response, Url};
use tokio::sync::OnceCell;

use super::attempts::{Failure, Next};
use super::error::{ClientError, Why, span};
use super::names::Names;
use crate::host::blocking::{Lanes, Unanswered};
use crate::host::trust;
use crate::redact::mask_urls;

/// Maximum size of an answer, in bytes.
const LONGEST_ANSWER: usize = 16 << 20;
/// Maximum size of an answer that is only shown, in bytes.
const LONGEST_REFUSAL: usize = 64 << 10;
/// Lifetime of an idle connection: long enough for the calls of a start.
const KEEP_IDLE: Duration = Duration::from_secs(10);

/// The proxies in the environment. Their URLs may contain passwords, which `Debug` does not show.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For `http` root URLs: `http_proxy`.
    pub http: Option<String>,
    /// For `https` root URLs: `https_proxy`.
    pub https: Option<String>,
    /// Hosts that are reached without a proxy: `no_proxy`.
    pub no_proxy: Option<String>,
    /// The paths of certificate authorities, each with the name of its variable: `SSL_CERT_FILE`, `SSL_CERT_DIR`.
    pub authorities: Vec<(&'static str, PathBuf)>,
}

impl Proxies {
    /// The URLs that contain a user and perhaps a password.
    pub fn secrets(&self) -> impl Iterator<Item = String> {
        let urls = [&self.http, &self.https].into_iter().flatten().filter(|url| url.contains('@'));
        urls.map(|url| if url.contains("://") { url.clone() } else { format!("http://{url}") })
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("no_proxy", &self.no_proxy)
            .field("authorities", &self.authorities)
            .finish()
    }
}

/// The HTTP client, set up at the first request.
pub(super) struct Connection {
    proxy: Option<Proxy>,
    speaks_tls: bool,
    authorities: Vec<(&'static str, PathBuf)>,
    /// Time limit until a request can be sent.
    connect: Duration,
    client: OnceCell<Result<reqwest::Client, String>>,
    lanes: Lanes,
}

impl Connection {
    pub(super) fn new(root: &Url, proxies: &Proxies, connect: Duration) -> Result<Self, ClientError> {
        let https = root.scheme() == "https";
        let (named, variable) =
            if https { (&proxies.https, "https_proxy") } else { (&proxies.http, "http_proxy") };
        let url = named.as_deref().map(proxy_url).transpose();
        let url = url.map_err(|why| ClientError::Proxy { variable, why })?;
        let speaks_tls = https || url.as_ref().is_some_and(|url| url.scheme() == "https");
        let no_proxy = proxies.no_proxy.as_deref().and_then(NoProxy::from_string);
        let proxy = url.map(|url| Ok(Proxy::all(url)?.no_proxy(no_proxy))).transpose();
        let proxy = proxy.map_err(|cause: reqwest::Error| ClientError::Proxy {
            variable,
            why: causes(&cause.without_url()),
        })?;
        Ok(Self {
            proxy,
            speaks_tls,
            connect,
            authorities: proxies.authorities.clone(),
            client: OnceCell::new(),
            lanes: Lanes::default(),
        })
    }

    /// Returns true if there is a proxy for this scheme. It may not apply to every host.
    pub(super) fn has_proxy(&self) -> bool {
        self.proxy.is_some()
    }

    pub(super) fn use_lanes(&mut self, lanes: Lanes) {
        self.lanes = lanes;
    }

    /// Returns the HTTP client, and sets it up at the first call.
    pub(super) async fn client(&self) -> Result<&reqwest::Client, Failure> {
        let failed = |why: &String| Failure::permanent(Why::NotSent(format!("cannot set up HTTP: {why}")));
        let set_up = async {
            for (variable, path) in self.authorities.iter().filter(|_| self.speaks_tls).cloned() {
                let at = path.clone();
                let look = move || trust::exposed_authority(variable, &at);
                if let Some(why) = self.lanes.certificates.at(&path, self.connect, look).await? {
                    return Ok(Err(why));
                }
            }
            if !self.speaks_tls {
                // Nothing is read from a disk.
                return Ok(self.build()().map_err(|cause| causes(&cause)));
            }
            // The certificates are read from files.
            let what = "the disk of the system's certificates";
            let built = self.lanes.certificates.ask(what, self.connect, self.build());
            Ok(built.await?.map_err(|cause| causes(&cause)))
        };
        let built = self.client.get_or_try_init(|| set_up).await.map_err(|cause: Unanswered| Failure {
            why: Why::NotSent(cause.to_string()),
            next: Next::Later,
            may_have_been_done: false,
        })?;
        built.as_ref().map_err(failed)
    }

    /// Builds the HTTP client. With TLS, this blocks on the disk of the certificates.
    fn build(&self) -> Box<dyn FnOnce() -> reqwest::Result<reqwest::Client> + Send> {
        // If another part was first, it has installed the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("start-worker/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .dns_resolver(Names::new(self.lanes.names.clone()))
            .connect_timeout(self.connect)
            .pool_idle_timeout(KEEP_IDLE)
            .pool_max_idle_per_host(1);
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(proxy.clone());
        }
        if !self.speaks_tls {
            builder = builder.tls_certs_only([]);
        }
        Box::new(|| builder.build())
    }
}

/// Parses a root URL.
pub(super) fn parse_root(text: &str) -> Result<Url, ClientError> {
    let refused =
        |shown: &str, why: &str| ClientError::RootUrl { url: mask_urls(shown), why: why.to_owned() };
    let url = Url::parse(text).map_err(|cause| refused(text, &format!("it is not a URL: {cause}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("(masked)", "it must not hold a user or a password"));
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused(text, "it must begin with https:// or http://"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused(text, "it must have neither `?` nor `#`"));
    }
    Ok(url)
}

/// Parses a proxy variable; `host:port` means `http`.
fn proxy_url(text: &str) -> Result<Url, String> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&text).map_err(|cause| format!("it is not a URL: {cause}"))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(format!("{other} proxies are not supported; name one for http or https")),
    }
}

/// An answer, and the reason if its body is incomplete.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: reqwest::header::HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) broken: Option<Why>,
}

pub(super) async fn send(request: RequestBuilder, connect: Duration) -> Result<Answer, Failure> {
    let mut response = request.send().await.map_err(|cause| {
        let sent = !cause.is_connect() && !cause.is_builder();
        let next = if cause.is_builder() { Next::Nothing } else { Next::Later };
        Failure { why: no_answer(cause, connect), next, may_have_been_done: sent }
    })?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let mut body = Vec::new();
    let broken = read_body(&mut response, &mut body, status.is_success()).await.err();
    Ok(Answer { status: status.as_u16(), headers, body, broken })
}

/// Reads the body. A body that is only shown may be incomplete.
async fn read_body(response: &mut Response, body: &mut Vec<u8>, needed: bool) -> Result<(), Why> {
    let longest = if needed { LONGEST_ANSWER } else { LONGEST_REFUSAL };
    while let Some(chunk) = response.chunk().await.map_err(broken_off)? {
        let room = longest.saturating_sub(body.len());
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if chunk.len() > room && !needed {
            return Ok(());
        }
        if chunk.len() > room {
            return Err(Why::Broken(format!("the answer is longer than {} MiB", LONGEST_ANSWER >> 20)));
        }
    }
    Ok(())
}

fn no_answer(cause: reqwest::Error, connect: Duration) -> Why {
    let what = match (cause.is_connect(), cause.is_timeout()) {
        (true, true) => return Why::Transport(format!("no connection within {}", span(connect))),
        (true, false) => "cannot connect",
        (false, _) => "no answer",
    };
    let causes = causes(&cause.without_url());
    let hint = if causes.contains("InvalidContentType") {
        "; this port does not speak TLS: is the URL meant to begin with http://, or is the port another?"
    } else {
        ""
    };
    Why::Transport(format!("{what}: {causes}{hint}"))
}

fn broken_off(cause: reqwest::Error) -> Why {
    Why::Broken(format!("the answer broke off: {}", causes(&cause.without_url())))
}

/// The innermost causes of an HTTP library's error, without the names of its layers.
fn causes(error: &(dyn Error + 'static)) -> String {
    const LAYERS: [&str; 8] = [
        "client error (Canceled)",
        "client error (Connect)",
        "client error (SendRequest)",
        "tcp connect error",
        "dns error",
        "operation was canceled",
        "error reading a body from connection",
        "request or response body error",
    ];
    let mut said: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        cause = error.source();
        let text = error.to_string();
        let text = text.split_once(" (os error ").map_or(text.as_str(), |(text, _)| text).to_owned();
        // Skips a wrapper that repeats the text of its cause.
        let repeated = said.last().is_some_and(|last| last.ends_with(&text));
        if !LAYERS.contains(&text.as_str()) && !text.is_empty() && !repeated {
            said.push(text);
        }
    }
    if said.is_empty() { error.to_string() } else { said.join(": ") }
}
