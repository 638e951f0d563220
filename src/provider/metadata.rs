//! The clouds' metadata services: a single HTTP call, with the headers and the session token that each service
//! requires.
//!
//! The services are on the local link, so calls use no proxy, no redirects and no TLS, and expect an answer within
//! seconds. [`ask`] repeats calls until there is an answer.

use std::time::Duration;

use reqwest::StatusCode;
use thiserror::Error;
use tracing::{info, trace};

use super::ProviderError;

mod ask;
mod http;
mod session;

pub(super) use ask::Asker;
use session::Session;

/// Time limit of an answer.
pub(super) const SOON: Duration = Duration::from_secs(2);
/// Time limit of a signed document.
pub(super) const SIGNED: Duration = Duration::from_secs(5);
/// Maximum size of an answer, larger than any user-data.
const MAX_BODY: usize = 1 << 20;

/// The link-local address of EC2 and Azure.
const LINK_LOCAL: &str = "http://169.254.169.254";
/// EC2's address for instances that only have IPv6.
const EC2_IPV6: &str = "http://[fd00:ec2::254]";
/// The name that GCE resolves to the link-local address.
const GCE: &str = "http://metadata.google.internal";

/// The origins (`http://host:port`) of the metadata services; `None`: the cloud's own address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataOrigins {
    pub ec2: Option<String>,
    pub azure: Option<String>,
    pub gce: Option<String>,
}

pub(super) struct Service {
    kind: Kind,
    origin: String,
    /// An alternative origin, used if there is no route to `origin`.
    other: Option<&'static str>,
    http: reqwest::Client,
}

/// The service-specific requirements.
enum Kind {
    Ec2(Session),
    Azure,
    Gce,
}

/// An answer with a body.
#[derive(Debug)]
pub(super) struct Answer {
    /// The body, unchanged.
    pub(super) text: String,
    /// The version of the value.
    pub(super) etag: Option<String>,
}

/// The reason for a failed call.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    #[error("{0}")]
    Transport(String),
    /// This host has no route to the address.
    #[error("{0}")]
    NoRoute(String),
    #[error("not there (404)")]
    Absent,
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("the answer is longer than 1 MiB")]
    TooLong,
    #[error("the answer is not UTF-8")]
    NotText,
    #[error("something else answers there: the answer has no header `Metadata-Flavor: Google`")]
    Stranger,
    #[error("no session token: {cause}{hint}", cause = .0, hint = hint(.0))]
    Session(Box<Failure>),
    /// For callers that parse an answer.
    #[error("the answer is not what it should be")]
    Garbage,
}

/// A hint for a token request that timed out: an answer that exceeds the hop limit is dropped on the way.
fn hint(failure: &Failure) -> &'static str {
    match failure {
        Failure::TimedOut(_) => " (is the instance's metadata hop limit too low?)",
        _ => "",
    }
}

impl Failure {
    fn has_no_route(&self) -> bool {
        match self {
            Self::NoRoute(_) => true,
            Self::Session(cause) => cause.has_no_route(),
            _ => false,
        }
    }

    /// Returns true if a retry may help.
    fn may_pass(&self) -> bool {
        !matches!(self, Self::TooLong | Self::NotText | Self::Garbage)
    }
}

impl Service {
    /// EC2's service. `without_sessions`: use its first version if it has no session tokens.
    pub(super) fn ec2(origins: &MetadataOrigins, without_sessions: bool) -> Result<Self, ProviderError> {
        let kind = Kind::Ec2(Session::new(without_sessions));
        let other = origins.ec2.is_none().then_some(EC2_IPV6);
        Ok(Self { other, ..Self::new(kind, origins.ec2.as_deref(), LINK_LOCAL)? })
    }

    pub(super) fn azure(origins: &MetadataOrigins) -> Result<Self, ProviderError> {
        Self::new(Kind::Azure, origins.azure.as_deref(), LINK_LOCAL)
    }

    pub(super) fn gce(origins: &MetadataOrigins) -> Result<Self, ProviderError> {
        Self::new(Kind::Gce, origins.gce.as_deref(), GCE)
    }

    fn new(kind: Kind, origin: Option<&str>, default: &str) -> Result<Self, ProviderError> {
        let origin = origin.unwrap_or(default).trim_end_matches('/').to_owned();
        Ok(Self { kind, origin, other: None, http: http::client()? })
    }

    /// A path's full URL without its query, for messages.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{}", self.origin, path.split('?').next().unwrap_or_default())
    }

    /// Reads a path once. If the session token is refused, repeats the call with a new one.
    pub(super) async fn get(&mut self, path: &str, limit: Duration) -> Result<Answer, Failure> {
        trace!(path, "asking the metadata service");
        let mut answer = self.attempt(path, limit).await;
        if answer.as_ref().is_err_and(Failure::has_no_route)
            && let Some(other) = self.other
        {
            let first = std::mem::replace(&mut self.origin, other.to_owned());
            match self.attempt(path, limit).await {
                Err(failure) if failure.has_no_route() => self.origin = first,
                second => {
                    info!(
                        no_route_to = first,
                        going_on_with = other,
                        "the metadata service is at its IPv6 address"
                    );
                    answer = second;
                }
            }
        }
        // The answer is not logged, because it may be a secret.
        trace!(
            path,
            failure = answer.as_ref().err().map(tracing::field::display),
            "the metadata service was asked"
        );
        answer
    }

    async fn attempt(&mut self, path: &str, limit: Duration) -> Result<Answer, Failure> {
        let request = self.http.get(format!("{}{path}", self.origin));
        match &mut self.kind {
            Kind::Azure => {
                http::read(request.header("Metadata", "true"), limit).await.map(|(answer, _)| answer)
            }
            Kind::Gce => {
                let (answer, headers) =
                    http::read(request.header("Metadata-Flavor", "Google"), limit).await?;
                if headers.get("Metadata-Flavor").is_none_or(|flavor| flavor != "Google") {
                    return Err(Failure::Stranger);
                }
                Ok(answer)
            }
            Kind::Ec2(session) => session.get(&self.http, &self.origin, path, limit).await,
        }
    }

    /// Posts JSON to a path of Azure's service, once.
    pub(super) async fn post(&mut self, path: &str, body: String, limit: Duration) -> Result<(), Failure> {
        let request = self.http.post(format!("{}{path}", self.origin));
        let request =
            request.header("Metadata", "true").header("Content-Type", "application/json").body(body);
        http::read(request, limit).await.map(|_| ())
    }
}
