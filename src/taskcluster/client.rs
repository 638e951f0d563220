//! Converts a call to a signed request, and an answer to a value or a failure.
//!
//! Hawk signs every attempt anew, because a signature is valid for one request. Temporary credentials include their
//! certificate as the object in the string, unchanged, because the order of its scopes is signed. If the host's clock
//! is more than about 15 minutes off, Taskcluster refuses the call; the client then takes the offset from the answer's
//! `Date` and keeps it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use tracing::warn;

use super::attempts::{End, Failure, Next, Terms, keep_trying};
use super::connection::{Answer, Connection, Proxies, parse_root, send};
use super::error::{CallError, ClientError, Quoting, Target, Why};
use super::in_flight::{Counted, InFlight};
use super::pace::Pace;
use crate::clock::{Clock, Date};
use crate::credentials::Credentials;
use crate::host::blocking::Lanes;
use crate::redact::{Secrets, cut};
use crate::telemetry::counters::Counters;
use crate::telemetry::current_retry::CurrentRetry;

/// Time limit of one attempt. Taskcluster may take up to 30 s to answer.
const ATTEMPT: Duration = Duration::from_secs(30);
/// Maximum wait that an answer can request, in `Retry-After`.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);
/// With a smaller offset, in seconds, the clock is not the reason for a refusal.
const CLOCK_IS_RIGHT: i64 = 60;
const JSON: &str = "application/json";

/// Calls one Taskcluster deployment. Clones are cheap and share their state.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    /// Without trailing slashes.
    root_url: String,
    connection: Connection,
    clock: Arc<dyn Clock>,
    /// The correction of the host's clock, in seconds.
    clock_offset: AtomicI64,
    attempt: Duration,
    in_flight: InFlight,
    trouble: CurrentRetry,
    counters: Counters,
    pace: Option<Pace>,
    secrets: Secrets,
}

/// A call, ready to be sent.
pub(super) struct Call<'a> {
    /// Its name in Taskcluster's reference.
    pub(super) name: &'static str,
    pub(super) method: Method,
    /// Relative to the root URL, encoded.
    pub(super) path: String,
    /// JSON.
    pub(super) body: Option<String>,
    /// Credentials with which the request is signed.
    pub(super) credentials: Option<&'a Credentials>,
    /// Secrets to mask if an answer repeats them.
    pub(super) secrets: Vec<&'a SecretString>,
    /// A secret in the path.
    pub(super) token: Option<&'a SecretString>,
}

impl Client {
    /// Creates a client for the deployment at this root URL. Does not connect yet.
    pub fn new(root_url: &str, proxies: &Proxies, clock: Arc<dyn Clock>) -> Result<Self, ClientError> {
        Self::with_attempt_limit(root_url, proxies, clock, ATTEMPT)
    }

    fn with(mut self, set: impl FnOnce(&mut Inner)) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            set(inner);
        }
        self
    }

    /// Counts requests and limits their pace. Must be called before the client is cloned.
    #[must_use]
    pub fn counting(self, in_flight: InFlight, counters: Counters, pace: Pace) -> Self {
        self.with(|inner| {
            inner.in_flight = in_flight;
            inner.counters = counters;
            inner.pace = Some(pace);
        })
    }

    /// Also reports retries to `trouble`. Must be called before the client is cloned.
    #[must_use]
    pub fn telling(self, trouble: CurrentRetry) -> Self {
        self.with(|inner| inner.trouble = trouble)
    }

    /// Masks these secrets wherever an answer repeats them. Must be called before the client is cloned.
    #[must_use]
    pub fn masking(self, secrets: Secrets) -> Self {
        self.with(|inner| inner.secrets = secrets)
    }

    /// Runs the calls that can hang, for names and certificates, in these lanes.
    #[must_use]
    pub fn with_lanes(self, lanes: Lanes) -> Self {
        self.with(|inner| inner.connection.use_lanes(lanes))
    }

    /// The known secrets, to which an answer's secrets are added before anything is shown.
    pub fn secrets(&self) -> &Secrets {
        &self.0.secrets
    }

    /// Creates a client with this time limit of one attempt.
    pub(super) fn with_attempt_limit(
        root_url: &str,
        proxies: &Proxies,
        clock: Arc<dyn Clock>,
        attempt: Duration,
    ) -> Result<Self, ClientError> {
        let root_url = root_url.trim_end_matches('/');
        let root = parse_root(root_url)?;
        let connection = Connection::new(&root, proxies, connect_limit(attempt))?;
        let inner = Inner {
            root_url: root_url.to_owned(),
            connection,
            clock,
            clock_offset: AtomicI64::new(0),
            attempt,
            in_flight: InFlight::default(),
            counters: Counters::default(),
            trouble: CurrentRetry::default(),
            pace: None,
            secrets: Secrets::default(),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// The root URL, without trailing slashes.
    pub fn root_url(&self) -> &str {
        &self.0.root_url
    }

    /// The host and port to which the client connects; `None` with a proxy, which makes the connection instead.
    pub fn host(&self) -> Option<(String, u16)> {
        let root = Url::parse(&self.0.root_url).ok().filter(|_| !self.0.connection.has_proxy())?;
        let host = root.host_str()?.trim_matches(['[', ']']).to_owned();
        Some((host, root.port_or_known_default()?))
    }

    pub(super) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Makes a call until it succeeds, is refused, or the end is reached.
    pub(super) async fn call<T>(
        &self,
        call: &Call<'_>,
        end: End,
        read: impl Fn(&[u8], &Quoting<'_>) -> Result<T, Why>,
    ) -> Result<T, CallError> {
        let target = self.target(call);
        let terms = Terms {
            end,
            attempt: self.0.attempt,
            clock: &*self.0.clock,
            trouble: &self.0.trouble,
            pace: self.0.pace.as_ref(),
        };
        keep_trying(&target, terms, || self.attempt(call, &read)).await
    }

    fn target(&self, call: &Call<'_>) -> Target {
        let mut path = call.path.clone();
        if let Some(token) = call.token.map(ExposeSecret::expose_secret).filter(|token| !token.is_empty()) {
            path = path.replace(&super::api::encoded(token), "<token>");
        }
        let url = format!("{}{path}", self.0.root_url);
        Target { name: call.name, method: method_name(&call.method), url }
    }

    async fn attempt<T>(
        &self,
        call: &Call<'_>,
        read: impl Fn(&[u8], &Quoting<'_>) -> Result<T, Why>,
    ) -> Result<T, Failure> {
        let _sent = self.0.in_flight.sent();
        let mut counted =
            Counted { counters: &self.0.counters, call: call.name, began: Instant::now(), status: None };
        let result = self.send(call).await.and_then(|answer| {
            counted.status = Some(answer.status);
            if let Some(theirs) = date(&answer.headers, DATE.as_str()).and_then(Date::time) {
                self.0.counters.set_clock_offset(theirs.duration_since(self.now()).as_secs());
            }
            self.judge(call, answer, read)
        });
        drop(counted);
        result.map_err(|failure| Failure { why: failure.why.masked(|text| self.mask(call, text)), ..failure })
    }

    /// Masks the known secrets, and those of this call, in foreign text.
    fn mask(&self, call: &Call<'_>, text: &str) -> String {
        let own = Secrets::default();
        call.secrets.iter().copied().chain(call.token).for_each(|secret| own.add(secret.expose_secret()));
        let text = match call.token.map(ExposeSecret::expose_secret).filter(|token| !token.is_empty()) {
            Some(token) => text.replace(token, "<token>"),
            None => text.to_owned(),
        };
        // The answer may have been truncated on its way.
        self.0.secrets.mask_cut(own.mask_cut(text))
    }

    async fn send(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let http = self.0.connection.client().await?;
        let not_sent = |why: String| Failure::permanent(Why::NotSent(why));
        let url = self.url(call)?;
        let mut request = http.request(call.method.clone(), url.clone());
        if let Some(credentials) = call.credentials {
            let to_sign = ToSign { method: &call.method, url: &url, body: call.body.as_deref() };
            let offset = SignedDuration::from_secs(self.0.clock_offset.load(Ordering::Relaxed));
            let time = self.now().saturating_add(offset).unwrap_or_else(|_| self.now());
            let mut header = sign(&to_sign, credentials, time, &nonce())
                .and_then(|header| HeaderValue::from_str(&header).map_err(|_| NOT_A_HEADER.to_owned()))
                .map_err(|why| not_sent(format!("cannot sign with the credentials: {why}")))?;
            header.set_sensitive(true);
            request = request.header(AUTHORIZATION, header);
        }
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, JSON).body(body.clone());
        }
        send(request, connect_limit(self.0.attempt)).await
    }

    fn url(&self, call: &Call<'_>) -> Result<Url, Failure> {
        let url = Url::parse(&format!("{}{}", self.0.root_url, call.path));
        url.map_err(|cause| Failure::permanent(Why::NotSent(format!("not a URL: {cause}"))))
    }

    fn judge<T>(
        &self,
        call: &Call<'_>,
        answer: Answer,
        read: impl Fn(&[u8], &Quoting<'_>) -> Result<T, Why>,
    ) -> Result<T, Failure> {
        let Answer { status, headers, body, broken } = answer;
        let quoting = Quoting {
            body: call.may_be_quoted(),
            content_type: headers.get(CONTENT_TYPE).and_then(|text| text.to_str().ok()),
            mask: &|text| self.mask(call, text),
        };
        match status {
            200..=299 => {
                let value = broken.map_or_else(|| read(&body, &quoting), Err);
                value.map_err(|why| Failure { why, next: Next::Later, may_have_been_done: true })
            }
            300..=399 => Err(Failure::permanent(self.redirect(call, status, &headers))),
            _ => {
                let why = match broken {
                    // The missing part contained the sender of the refusal and its reason.
                    Some(Why::Broken(why)) if status < 500 => Why::Broken(format!("{status}, and {why}")),
                    _ => Why::of_answer(status, &body, &quoting),
                };
                let next = match status {
                    408 | 429 | 500.. => retry_after(&headers, self.now()).map_or(Next::Later, Next::After),
                    _ if matches!(why, Why::Broken(_)) => Next::Later,
                    401 if is_stale(&why) && self.correct_clock(&headers) => Next::AtOnce,
                    _ => Next::Nothing,
                };
                Err(Failure { why, next, may_have_been_done: status >= 500 })
            }
        }
    }

    /// Corrects the clock with an answer's `Date`. Returns true if that makes a difference.
    fn correct_clock(&self, headers: &HeaderMap) -> bool {
        let Some(theirs) = date(headers, DATE.as_str()).and_then(Date::time) else { return false };
        let offset = theirs.duration_since(self.now()).as_secs();
        let before = self.0.clock_offset.load(Ordering::Relaxed);
        if (offset - before).abs() < CLOCK_IS_RIGHT {
            return false;
        }
        self.0.clock_offset.store(offset, Ordering::Relaxed);
        let way = if offset > 0 { "behind" } else { "ahead" };
        let off = humantime::format_duration(Duration::from_secs(offset.unsigned_abs()));
        warn!(name: "clock-wrong",
            clock = %format_args!("{off} {way}"),
            "the host's clock is wrong: calls are signed with Taskcluster's time; set the clock"
        );
        true
    }

    fn redirect(&self, call: &Call<'_>, status: u16, headers: &HeaderMap) -> Why {
        let location = headers.get(LOCATION).and_then(|to| to.to_str().ok());
        let to = location.and_then(|to| self.url(call).ok()?.join(to).ok());
        let Some(mut to) = to else {
            return Why::Redirect { status, to: "nowhere".to_owned(), root_url: None };
        };
        to.set_query(None);
        to.set_fragment(None);
        // Fails only for a URL that cannot have a user.
        let _ = (to.set_username(""), to.set_password(None));
        let root_url = to.as_str().strip_suffix(&call.path).map(|root| root.trim_end_matches('/').to_owned());
        let root_url = root_url.filter(|root_url| *root_url != self.0.root_url);
        // A path other than the call's may contain the secrets of the answer.
        let same_path = self.url(call).is_ok_and(|url| url.path() == to.path());
        let left_out = root_url.is_none() && !same_path && to.path() != "/";
        if left_out {
            to.set_path("/");
        }
        let to = self.mask(call, to.as_str()) + if left_out { "…" } else { "" };
        let root_url = root_url.map(|root_url| self.mask(call, &root_url));
        Why::Redirect { status, to: cut(&to, 300, "…").into_owned(), root_url }
    }
}

/// Two thirds of an attempt, so that a failed connection can be told from a missing answer.
fn connect_limit(attempt: Duration) -> Duration {
    attempt * 2 / 3
}

/// The wait that an answer requests: a number of seconds, or until a date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let until_date = || {
        let now = date(headers, DATE.as_str()).and_then(Date::time).unwrap_or(now);
        let until = date(headers, RETRY_AFTER.as_str())?.or_last();
        Some(until.duration_since(now).try_into().unwrap_or(Duration::ZERO))
    };
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) if is_number => Duration::MAX,
        Err(_) => until_date()?,
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

fn is_stale(why: &Why) -> bool {
    matches!(why, Why::Answer(refusal) if refusal.message.expose_secret().contains("Stale timestamp"))
}

fn date(headers: &HeaderMap, name: &str) -> Option<Date> {
    Date::parse_http(headers.get(name)?.to_str().ok()?)
}

const NOT_A_HEADER: &str = "clientId holds control characters";

/// The signed parts of a request.
pub(super) struct ToSign<'a> {
    pub(super) method: &'a Method,
    pub(super) url: &'a Url,
    pub(super) body: Option<&'a str>,
}

/// The value of an `Authorization` header. The error is the reason as text.
pub(super) fn sign(
    request: &ToSign<'_>,
    credentials: &Credentials,
    time: Timestamp,
    nonce: &str,
) -> Result<String, String> {
    let failed = |cause: hawk::Error| cause.to_string();
    let ext = credentials.certificate.as_ref().map(ext).transpose()?;
    let hash = request.body.map(|body| hawk::PayloadHasher::hash(JSON, hawk::SHA256, body));
    let hash = hash.transpose().map_err(failed)?;
    let key = hawk::Key::new(credentials.access_token.expose_secret(), hawk::SHA256).map_err(failed)?;
    let signed = hawk::RequestBuilder::from_url(request.method.as_str(), request.url)
        .map_err(failed)?
        .hash(hash.as_deref())
        .ext(ext.as_deref())
        .request();
    let who = hawk::Credentials { id: credentials.client_id.clone(), key };
    let time = SystemTime::try_from(time).map_err(|cause| cause.to_string())?;
    let header = signed.make_header_full(&who, time, nonce).map_err(failed)?;
    Ok(format!("Hawk {header}"))
}

/// The certificate as the object in the string, character by character.
fn ext(certificate: &SecretString) -> Result<String, String> {
    let object: &RawValue = serde_json::from_str(certificate.expose_secret())
        .ok()
        .filter(|object: &&RawValue| object.get().starts_with('{'))
        .ok_or("certificate is not a JSON object")?;
    Ok(BASE64_STANDARD.encode(format!("{{\"certificate\":{}}}", object.get())))
}

/// A nonce need not be secret, only unique.
fn nonce() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(16).collect()
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "GET",
    }
}
