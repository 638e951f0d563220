//! The HTTP client of the metadata services: plain, direct and bounded.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ETAG, HeaderMap};
use reqwest::{RequestBuilder, StatusCode, redirect, retry};
use rustls::crypto::ring;

use super::{Answer, Failure, MAX_BODY, SOON};
use crate::error_chain::ErrorChain;
use crate::provider::ProviderError;
use crate::taskcluster::Names;

/// Builds a client without proxies and redirects.
pub(super) fn client() -> Result<reqwest::Client, ProviderError> {
    // There is no TLS on the link. Without this configuration, the system's certificates would be loaded.
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| ProviderError::Client(cause.to_string()))?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .no_gzip()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .http1_only()
        .dns_resolver(Names::default())
        .connect_timeout(SOON)
        .build()
        .map_err(|cause| ProviderError::Client(ErrorChain(&cause).to_string()))
}

/// Sends a request and reads its whole answer within `limit`.
pub(super) async fn read(request: RequestBuilder, limit: Duration) -> Result<(Answer, HeaderMap), Failure> {
    let failed = |cause: reqwest::Error| {
        if cause.is_timeout() {
            return Failure::TimedOut(limit);
        }
        let no_route = no_route(&cause);
        let text = ErrorChain(&cause.without_url()).to_string();
        if no_route { Failure::NoRoute(text) } else { Failure::Transport(text) }
    };
    let mut response = request.timeout(limit).send().await.map_err(failed)?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(Failure::Absent),
        status => return Err(Failure::Status(status)),
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(Failure::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    let headers = std::mem::take(response.headers_mut());
    let etag = headers.get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
    let text = String::from_utf8(body).map_err(|_| Failure::NotText)?;
    Ok((Answer { text, etag }, headers))
}

/// Returns true if the operating system has no route to the address.
fn no_route(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        matches!(cause, Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EADDRNOTAVAIL))
    })
}
