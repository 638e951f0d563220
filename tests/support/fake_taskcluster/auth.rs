//! Credentials: creates temporary ones, and verifies signed requests in the order and with the messages of
//! Taskcluster's auth service.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::hawk::{Header, Target, hmac_sha256, payload_hash};
use super::scopes::{expand, satisfy};
use super::state::{State, random_secret};

/// The issuer of workers' credentials.
pub const ISSUER: &str = "static/taskcluster/worker-manager";

/// Tolerance for the start and the expiry of certificates.
const GRACE: SignedDuration = SignedDuration::from_mins(5);
/// Maximum lifetime of a certificate.
const LONGEST: SignedDuration = SignedDuration::from_hours(31 * 24);
/// Maximum difference of a request's timestamp.
const SKEW: SignedDuration = SignedDuration::from_mins(15);

/// A Taskcluster client's credentials, in the form of the API.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    pub client_id: String,
    pub access_token: String,
    /// A string that contains JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// The content of temporary credentials.
#[derive(Debug, Clone)]
pub struct Claims {
    pub client_id: String,
    pub scopes: Vec<String>,
    pub start: Timestamp,
    pub expiry: Timestamp,
}

/// The keys in the service's order.
#[derive(Serialize)]
struct Certificate<'a> {
    version: u8,
    scopes: &'a [String],
    start: i64,
    expiry: i64,
    seed: String,
    signature: String,
    issuer: &'a str,
}

/// Issues temporary credentials as worker-manager does.
pub fn issue(state: &State, claims: &Claims) -> Credentials {
    let token = state.clients.get(ISSUER).map(|client| client.access_token.clone()).unwrap_or_default();
    let seed = random_secret();
    let (start, expiry) = (claims.start.as_millisecond(), claims.expiry.as_millisecond());
    let unsigned =
        json!({"issuer": ISSUER, "seed": seed, "start": start, "expiry": expiry, "scopes": claims.scopes});
    let text = signed_text(&claims.client_id, &unsigned);
    let certificate = Certificate {
        version: 1,
        scopes: &claims.scopes,
        start,
        expiry,
        signature: hmac_sha256(&token, &text),
        issuer: ISSUER,
        seed: seed.clone(),
    };
    Credentials {
        client_id: claims.client_id.clone(),
        access_token: temporary_token(&token, &seed),
        certificate: serde_json::to_string(&certificate).ok(),
    }
}

/// The text covered by a certificate's signature, with the scopes in their order.
fn signed_text(client_id: &str, certificate: &Value) -> String {
    let mut lines = vec!["version:1".to_owned()];
    if let Some(issuer) = certificate["issuer"].as_str() {
        lines.push(format!("clientId:{client_id}"));
        lines.push(format!("issuer:{issuer}"));
    }
    lines.push(format!("seed:{}", certificate["seed"].as_str().unwrap_or_default()));
    lines.push(format!("start:{}", certificate["start"]));
    lines.push(format!("expiry:{}", certificate["expiry"]));
    lines.push("scopes:".to_owned());
    lines.extend(certificate_scopes(certificate));
    lines.join("\n")
}

fn certificate_scopes(certificate: &Value) -> Vec<String> {
    let scopes = certificate["scopes"].as_array().map(Vec::as_slice).unwrap_or_default();
    scopes.iter().map(|scope| scope.as_str().unwrap_or_default().to_owned()).collect()
}

fn temporary_token(token: &str, seed: &str) -> String {
    hmac_sha256(token, seed).replace('+', "-").replace('/', "_").replace('=', "")
}

/// The part of a request that its verification requires.
pub struct Signed<'a> {
    pub authorization: &'a str,
    pub target: Target<'a>,
    pub content_type: &'a str,
    pub payload: &'a [u8],
    pub now: Timestamp,
}

/// The sender of a request.
pub struct Caller {
    pub client_id: String,
    /// Including the scopes of all roles.
    pub scopes: Vec<String>,
}

/// The reason for refusing a request.
pub enum Refused {
    /// 401, with this message.
    Failed(String),
    /// 500: the service fails.
    Stumbled,
}

impl Refused {
    fn with(message: &str) -> Self {
        Self::Failed(message.to_owned())
    }
}

/// The key and the scopes for a header's `id` and `ext`.
struct Key {
    token: String,
    scopes: Vec<String>,
}

/// Verifies a request's signature. Returns the sender.
pub fn authenticate(state: &mut State, request: &Signed<'_>) -> Result<Caller, Refused> {
    let header = Header::parse(request.authorization).map_err(Refused::Failed)?;
    let key = key(state, &header, request.now)?;
    if header.mac != header.expected_mac(&key.token, &request.target) {
        return Err(Refused::with("Unauthorized: Bad mac"));
    }
    if !state.nonces.is_new(format!("{} {} {}", header.id, header.nonce, header.ts)) {
        return Err(Refused::with("Unauthorized: Invalid nonce"));
    }
    let signed_at = header.ts.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    if signed_at.is_none_or(|at| request.now.duration_since(at).abs() > SKEW) {
        return Err(Refused::with("Unauthorized: Stale timestamp"));
    }
    if let Some(hash) = &header.hash {
        let computed = payload_hash(request.content_type, request.payload);
        if hash.len() != computed.len() {
            return Err(Refused::Stumbled);
        }
        if *hash != computed {
            return Err(Refused::Failed(format!(
                "Invalid payload hash: {{{{hash}}}}\nComputed payload hash: {computed}\nThis happens when your \
                 request carries a signed hash of the payload and the hash doesn't match the hash we've computed \
                 on the server-side."
            )));
        }
    }
    Ok(Caller { client_id: header.id, scopes: key.scopes })
}

fn key(state: &State, header: &Header, now: Timestamp) -> Result<Key, Refused> {
    let ext = match &header.ext {
        None => Value::Null,
        Some(ext) => STANDARD
            .decode(ext)
            .ok()
            .and_then(|json| serde_json::from_slice::<Value>(&json).ok())
            .ok_or_else(|| Refused::with("Failed to parse ext"))?,
    };
    let certificate = &ext["certificate"];
    let issuer = certificate["issuer"].as_str().unwrap_or(&header.id);
    let client = state
        .clients
        .get(issuer)
        .ok_or_else(|| Refused::Failed(format!("Client with clientId '{issuer}' not found")))?;
    let mut key = Key { token: client.access_token.clone(), scopes: expand(&client.scopes, &state.roles) };
    if !certificate.is_null() {
        check(certificate, &header.id, &key, now)?;
        key.token = temporary_token(&key.token, certificate["seed"].as_str().unwrap_or_default());
        key.scopes = expand(&certificate_scopes(certificate), &state.roles);
    }
    let Some(authorized) = ext.get("authorizedScopes") else { return Ok(key) };
    let authorized: Vec<String> = serde_json::from_value(authorized.clone())
        .map_err(|_| Refused::with("ext.authorizedScopes must be an array of valid scopes"))?;
    if !authorized.iter().all(|scope| satisfy(&key.scopes, scope)) {
        return Err(Refused::Failed(format!(
            "Supplied credentials do not satisfy authorizedScopes; credentials have scopes:\n\n```\n{}\n```\n\n\
             authorizedScopes are:\n\n```\n{}\n```",
            key.scopes.join("\n"),
            authorized.join("\n"),
        )));
    }
    key.scopes = expand(&authorized, &state.roles);
    Ok(key)
}

/// Verifies a certificate with its issuer's key.
fn check(certificate: &Value, client_id: &str, issuer: &Key, now: Timestamp) -> Result<(), Refused> {
    let fail = |message: &str| Err(Refused::Failed(format!("ext.certificate{message}")));
    if !certificate.is_object() {
        return fail(" must be a JSON object");
    }
    if certificate["version"] != json!(1) {
        return fail(".version must be 1");
    }
    if certificate["seed"].as_str().is_none_or(|seed| seed.len() != 44) {
        return fail(".seed must be 44 characters");
    }
    let time = |key: &str| certificate[key].as_i64().and_then(|time| Timestamp::from_millisecond(time).ok());
    let Some(start) = time("start") else { return fail(".start must be a number") };
    let Some(expiry) = time("expiry") else { return fail(".expiry must be a number") };
    if !certificate["scopes"].as_array().is_some_and(|scopes| scopes.iter().all(Value::is_string)) {
        return fail(".scopes must be an array of valid scopes");
    }
    if start.duration_since(now) > GRACE {
        return fail(".start > now");
    }
    if now.duration_since(expiry) > GRACE {
        return fail(".expiry < now");
    }
    if expiry.duration_since(start) > LONGEST {
        return fail(" cannot last longer than 31 days!");
    }
    let issuer_id = certificate["issuer"].as_str();
    let create = format!("auth:create-client:{client_id}");
    if let Some(id) = issuer_id.filter(|id| *id != client_id)
        && !satisfy(&issuer.scopes, &create)
    {
        return fail(&format!(" issuer `{id}` doesn't have `{create}` for supplied clientId."));
    }
    let scopes = certificate_scopes(certificate);
    if !scopes.iter().all(|scope| satisfy(&issuer.scopes, scope)) {
        return fail(&format!(
            " issuer `{}` doesn't satisfy all certificate scopes {}.  The temporary credentials were not \
             generated correctly.",
            issuer_id.unwrap_or(client_id),
            scopes.join(", "),
        ));
    }
    if certificate["signature"] != json!(hmac_sha256(&issuer.token, &signed_text(client_id, certificate))) {
        let named = if issuer_id.is_some() { ", or wrong clientId provided" } else { "" };
        return fail(&format!(".signature is not valid{named}"));
    }
    Ok(())
}
