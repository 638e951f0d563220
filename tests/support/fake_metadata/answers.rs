//! The answers of each service, in the form of the real ones: headers, tokens, versions, tags and error pages.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;

use super::server::Busy;
use super::{Cloud, Request, Shared};

/// An answer.
pub(super) struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Reply {
    pub(super) fn new(status: u16, body: &str) -> Self {
        Self { status, headers: Vec::new(), body: body.to_owned() }
    }

    /// An error as an HTML page.
    pub(super) fn html(status: u16, why: &str) -> Self {
        let page = format!(
            "<?xml version=\"1.0\"?>\n<!DOCTYPE html>\n<html><head><title>{status} - {why}</title></head>\n\
             <body><h1>{status} - {why}</h1></body></html>\n"
        );
        Self { headers: vec![("content-type", "text/html".to_owned())], ..Self::new(status, &page) }
    }

    fn json(status: u16, body: &serde_json::Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { headers, ..Self::new(status, &body.to_string()) }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// EC2's session tokens.
pub(super) struct Sessions {
    pub required: bool,
    pub supported: bool,
    /// Each token with its expiry.
    pub tokens: Vec<(String, Instant)>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { required: true, supported: true, tokens: Vec::new() }
    }
}

const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";

/// The headers of every answer.
pub(super) fn always(cloud: Cloud) -> &'static [(&'static str, &'static str)] {
    match cloud {
        Cloud::Ec2 => &[("server", "EC2ws")],
        Cloud::Azure => &[("server", "IMDS/150.870.65.1854")],
        Cloud::Gce => &[("metadata-flavor", "Google"), ("server", "Metadata Server for VM")],
    }
}

pub(super) async fn answer(request: &Request, shared: &Shared, busy: &Busy<'_>) -> Reply {
    match shared.cloud {
        Cloud::Ec2 => ec2(request, shared),
        Cloud::Azure => azure(request, shared),
        Cloud::Gce => gce(request, shared, busy).await,
    }
}

fn ec2(request: &Request, shared: &Shared) -> Reply {
    let mut state = shared.state();
    let sessions = &mut state.sessions;
    if request.path() == "/latest/api/token" && sessions.supported {
        if request.method != "PUT" {
            return Reply::html(405, "Method Not Allowed");
        }
        if request.header("x-forwarded-for").is_some() {
            return Reply::html(403, "Forbidden");
        }
        let ttl = request.header(TTL).and_then(|ttl| ttl.parse().ok());
        let Some(ttl) = ttl.filter(|ttl| (1..=21600).contains(ttl)) else {
            return Reply::html(400, "Bad Request");
        };
        let token = format!("AQAEAMadeUpToken{:04}==", sessions.tokens.len());
        sessions.tokens.push((token.clone(), Instant::now() + Duration::from_secs(ttl)));
        return Reply::new(200, &token).with(TTL, ttl.to_string());
    }
    if request.method != "GET" {
        return Reply::html(405, "Method Not Allowed");
    }
    let token = request.header("x-aws-ec2-metadata-token").filter(|_| sessions.supported);
    let good = match token {
        Some(token) => sessions.tokens.iter().any(|(known, ends)| known == token && Instant::now() < *ends),
        None => !sessions.required,
    };
    if !good {
        return Reply::html(401, "Unauthorized");
    }
    match state.values.get(request.path()) {
        Some(value) => Reply::new(200, &value.text).with("content-type", "text/plain"),
        None => Reply::html(404, "Not Found"),
    }
}

fn azure(request: &Request, shared: &Shared) -> Reply {
    if request.header("metadata").is_none_or(|value| !value.eq_ignore_ascii_case("true"))
        || request.header("x-forwarded-for").is_some()
    {
        let error = "Bad request. Required metadata header not specified";
        return Reply::json(400, &json!({ "error": error }));
    }
    let version = request.parameter("api-version").unwrap_or_default();
    let digits = version.len() == 10
        && version.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if !digits {
        let error = "Bad request. api-version was not specified in the request";
        return Reply::json(400, &json!({ "error": error, "newest-versions": ["2021-12-13"] }));
    }
    let mut state = shared.state();
    match (request.method.as_str(), request.path()) {
        ("GET", "/metadata/scheduledevents") => {
            let document = json!({"DocumentIncarnation": state.incarnation, "Events": state.events.clone()});
            Reply::json(200, &document)
        }
        ("POST", "/metadata/scheduledevents") => {
            let body: serde_json::Value = serde_json::from_str(&request.body).unwrap_or_default();
            let Some(wanted) = body["StartRequests"].as_array() else {
                return Reply::json(400, &json!({"error": "Bad request"}));
            };
            for event in &mut state.events {
                if wanted.iter().any(|start| start["EventId"] == event["EventId"]) {
                    event["EventStatus"] = "Started".into();
                    event["NotBefore"] = "".into();
                }
            }
            state.incarnation += 1;
            Reply::new(200, "")
        }
        ("GET", path) => match state.values.get(path) {
            Some(value) => Reply::new(200, &value.text).with("content-type", "application/json"),
            None => Reply::html(404, "Not Found"),
        },
        _ => Reply::html(405, "Method Not Allowed"),
    }
}

async fn gce(request: &Request, shared: &Shared, busy: &Busy<'_>) -> Reply {
    if request.header("metadata-flavor") != Some("Google") || request.header("x-forwarded-for").is_some() {
        return Reply::html(403, "Forbidden");
    }
    if request.method != "GET" {
        return Reply::html(405, "Method Not Allowed");
    }
    if request.path().ends_with("/identity") && request.parameter("audience").is_none() {
        return Reply::html(400, "Bad Request");
    }
    if request.parameter("wait_for_change").as_deref() == Some("true") {
        busy.apart_from(wait_for_change(request, shared)).await;
    }
    let state = shared.state();
    match state.values.get(request.path()) {
        Some(value) => Reply::new(200, &value.text)
            .with("content-type", "application/text")
            .with("etag", etag(value.version)),
        None => Reply::html(404, "Not Found").with("etag", "0"),
    }
}

/// Waits until the value differs from the client's version, or the time is up.
async fn wait_for_change(request: &Request, shared: &Shared) {
    let current = || shared.state().values.get(request.path()).map(|value| etag(value.version));
    let known = request.parameter("last_etag").or_else(current);
    let mut changes = shared.changes.subscribe();
    let another = changes.wait_for(|_| current() != known);
    match request.parameter("timeout_sec").and_then(|time| time.parse().ok()) {
        // In both cases the answer is the current value.
        Some(seconds) => drop(timeout(Duration::from_secs(seconds), another).await),
        None => drop(another.await),
    }
}

fn etag(version: u64) -> String {
    format!("{:016x}", (version + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
