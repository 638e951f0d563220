//! EC2's session tokens (IMDSv2): obtained with a PUT, sent with every GET, renewed before they expire and when one is
//! refused.

use std::time::Duration;

use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tracing::info;

use super::{Answer, Failure, SOON, http};

/// The path at which tokens are issued.
const TOKENS: &str = "/latest/api/token";
/// The requested lifetime of a token; in the answer, its actual lifetime.
const TTL_HEADER: &str = "X-aws-ec2-metadata-token-ttl-seconds";
/// Six hours, the maximum.
const TTL: Duration = Duration::from_secs(21600);

/// The session with the service.
pub(super) struct Session {
    token: Option<Token>,
    /// True if the service's first version, without tokens, is acceptable.
    may_do_without: bool,
    /// True if the service has no tokens.
    without: bool,
}

struct Token {
    value: SecretString,
    /// The time at which to request another token.
    renew: Instant,
    ends: Instant,
}

impl Session {
    pub(super) fn new(may_do_without: bool) -> Self {
        Self { token: None, may_do_without, without: false }
    }

    pub(super) async fn get(
        &mut self,
        http: &reqwest::Client,
        origin: &str,
        path: &str,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let first = self.attempt(http, origin, path, limit).await;
        if !matches!(first, Err(Failure::Status(StatusCode::UNAUTHORIZED))) {
            return first;
        }
        // The token is invalid (the host slept), or the service requires one after all.
        self.token = None;
        self.without = false;
        self.attempt(http, origin, path, limit).await
    }

    async fn attempt(
        &mut self,
        http: &reqwest::Client,
        origin: &str,
        path: &str,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let mut request = http.get(format!("{origin}{path}"));
        if let Some(token) = self.token(http, origin).await? {
            request = request.header("X-aws-ec2-metadata-token", token.expose_secret());
        }
        http::read(request, limit).await.map(|(answer, _)| answer)
    }

    /// `None`: the service has no tokens.
    async fn token(&mut self, http: &reqwest::Client, origin: &str) -> Result<Option<SecretString>, Failure> {
        let now = Instant::now();
        if self.without {
            return Ok(None);
        }
        if let Some(token) = self.token.as_ref().filter(|token| now < token.renew) {
            return Ok(Some(token.value.clone()));
        }
        let request = http.put(format!("{origin}{TOKENS}")).header(TTL_HEADER, TTL.as_secs());
        let given = http::read(request, SOON).await.and_then(|(answer, headers)| {
            let usable = !answer.text.is_empty() && answer.text.bytes().all(|byte| byte.is_ascii_graphic());
            if usable { Ok((answer, headers)) } else { Err(Failure::Garbage) }
        });
        match given {
            Ok((answer, headers)) => {
                let seconds = headers.get(TTL_HEADER).and_then(|ttl| ttl.to_str().ok()?.parse().ok());
                let ttl = seconds.map_or(TTL, Duration::from_secs).min(TTL);
                let value = SecretString::from(answer.text);
                self.token = Some(Token { value: value.clone(), renew: now + ttl * 9 / 10, ends: now + ttl });
                Ok(Some(value))
            }
            Err(failure) if self.may_do_without && has_no_tokens(&failure) => {
                info!("the metadata service has no session tokens: going on without");
                self.without = true;
                Ok(None)
            }
            Err(failure) => match self.token.as_ref().filter(|token| now < token.ends) {
                Some(token) => Ok(Some(token.value.clone())),
                None => Err(Failure::Session(Box::new(failure))),
            },
        }
    }
}

/// Returns true for the answer to a PUT from a service that only supports GET.
fn has_no_tokens(failure: &Failure) -> bool {
    match failure {
        Failure::Absent => true,
        Failure::Status(status) => {
            [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED].contains(status)
        }
        _ => false,
    }
}
