//! Maps a request to its answer: identifies the call, checks its requirements, and performs it.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::auth::{Caller, Refused, Signed, authenticate};
use super::hawk::Target;
use super::scopes::{expand, expression, normalized, satisfy};
use super::state::{State, random_id, rfc3339};
use super::{pools, queue, secrets, workers};

/// A call of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    RegisterWorker,
    ReregisterWorker,
    ReportWorkerError,
    RemoveWorker,
    ShouldWorkerTerminate,
    WorkerPool,
    UpdateWorkerPool,
    DeleteWorkerPool,
    LaunchConfigs,
    Worker,
    ListWorkers,
    ListWorkerPoolErrors,
    Secret,
    CurrentScopes,
    LegacyGetSecret,
    LegacyRemoveSecret,
    /// The queue's getWorker, quarantineWorker and claimWork.
    QueueWorker,
    QuarantineWorker,
    ClaimWork,
    Ping,
    Unknown,
}

impl Call {
    /// The name in the record.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            other => other.method(),
        }
    }

    /// The name in the services' own messages.
    fn method(self) -> &'static str {
        match self {
            Self::RegisterWorker => "registerWorker",
            Self::ReregisterWorker => "reregisterWorker",
            Self::ReportWorkerError => "reportWorkerError",
            Self::RemoveWorker => "removeWorker",
            Self::ShouldWorkerTerminate => "shouldWorkerTerminate",
            Self::WorkerPool => "workerPool",
            Self::UpdateWorkerPool => "updateWorkerPool",
            Self::DeleteWorkerPool => "deleteWorkerPool",
            Self::LaunchConfigs => "listWorkerPoolLaunchConfigs",
            Self::Worker => "worker",
            Self::ListWorkers => "listWorkersForWorkerPool",
            Self::ListWorkerPoolErrors => "listWorkerPoolErrors",
            Self::Secret => "get",
            Self::CurrentScopes => "currentScopes",
            Self::LegacyGetSecret => "getSecret",
            Self::LegacyRemoveSecret => "removeSecret",
            Self::QueueWorker => "getWorker",
            Self::QuarantineWorker => "quarantineWorker",
            Self::ClaimWork => "claimWork",
            Self::Ping => "ping",
            Self::Unknown => "unknown",
        }
    }

    /// Returns true for calls whose payload is secret, so that messages omit it.
    fn is_confidential(self) -> bool {
        matches!(self, Self::RegisterWorker | Self::ReregisterWorker)
    }

    fn takes_payload(self) -> bool {
        self.is_confidential()
            || matches!(
                self,
                Self::ReportWorkerError | Self::UpdateWorkerPool | Self::QuarantineWorker | Self::ClaimWork
            )
    }

    /// Returns true for calls that ignore credentials.
    fn is_open(self) -> bool {
        matches!(
            self,
            Self::RegisterWorker
                | Self::LegacyGetSecret
                | Self::LegacyRemoveSecret
                | Self::Ping
                | Self::Unknown
        )
    }
}

/// A call with the parameters in its path.
pub(super) struct Route {
    pub call: Call,
    pub params: Map<String, Value>,
}

impl Route {
    /// Finds the call for a method and a path without its query.
    pub(super) fn find(method: &str, path: &str) -> Self {
        Self::known(method, path).unwrap_or(Self { call: Call::Unknown, params: Map::new() })
    }

    fn known(method: &str, path: &str) -> Option<Self> {
        let segments: Option<Vec<String>> = path.strip_prefix("/api/")?.split('/').map(decode).collect();
        let segments = segments?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (service, rest) = segments.split_first()?;
        let (version, rest) = rest.split_first()?;
        if *version != "v1" {
            return None;
        }
        let route = |call, params: &[(&str, &str)]| {
            let params = params.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
            Some(Self { call, params })
        };
        // The slash in an ID may also be unencoded: the rest of the path belongs to the parameter.
        let pool = |call, rest: &[&str]| route(call, &[("workerPoolId", &rest.join("/"))]);
        match (*service, method, rest) {
            // In the form of the services' common library: <https://docs.taskcluster.net>, `ping` of every service.
            ("worker-manager", "GET", ["ping"]) => route(Call::Ping, &[]),
            ("worker-manager", "POST", ["worker", "register"]) => route(Call::RegisterWorker, &[]),
            ("worker-manager", "POST", ["worker", "reregister"]) => route(Call::ReregisterWorker, &[]),
            ("worker-manager", "POST", ["worker-pool-errors", id @ ..]) => pool(Call::ReportWorkerError, id),
            ("worker-manager", "GET", ["worker-pool-errors", id @ ..]) => {
                pool(Call::ListWorkerPoolErrors, id)
            }
            ("worker-manager", "GET", ["worker-pool", id @ .., "launch-configs"]) => {
                pool(Call::LaunchConfigs, id)
            }
            ("worker-manager", "GET", ["worker-pool", id @ ..]) => pool(Call::WorkerPool, id),
            ("worker-manager", "POST", ["worker-pool", id @ ..]) => pool(Call::UpdateWorkerPool, id),
            ("worker-manager", "DELETE", ["worker-pool", id @ ..]) => pool(Call::DeleteWorkerPool, id),
            ("worker-manager", _, ["workers", pool_id, group, id, more @ ..]) if pool_id.contains('/') => {
                let call = match (method, more) {
                    ("GET", []) => Call::Worker,
                    ("DELETE", []) => Call::RemoveWorker,
                    ("GET", ["should-terminate"]) => Call::ShouldWorkerTerminate,
                    _ => return None,
                };
                route(call, &[("workerPoolId", pool_id), ("workerGroup", group), ("workerId", id)])
            }
            ("worker-manager", "GET", ["workers", id @ ..]) => pool(Call::ListWorkers, id),
            ("secrets", "GET", ["secret", name @ ..]) => route(Call::Secret, &[("name", &name.join("/"))]),
            ("queue", "POST", ["claim-work", id @ ..]) => {
                route(Call::ClaimWork, &[("taskQueueId", &id.join("/"))])
            }
            ("queue", _, ["provisioners", provisioner, "worker-types", kind, "workers", group, id]) => {
                let call = match method {
                    "GET" => Call::QueueWorker,
                    "PUT" => Call::QuarantineWorker,
                    _ => return None,
                };
                let (one, other) = (("provisionerId", *provisioner), ("workerType", *kind));
                route(call, &[one, other, ("workerGroup", group), ("workerId", id)])
            }
            ("auth", "GET", ["scopes", "current"]) => route(Call::CurrentScopes, &[]),
            ("aws-provisioner", "GET", ["secret", token]) => {
                route(Call::LegacyGetSecret, &[("token", token)])
            }
            ("aws-provisioner", "DELETE", ["secret", token]) => {
                route(Call::LegacyRemoveSecret, &[("token", token)])
            }
            _ => None,
        }
    }
}

fn decode(segment: &str) -> Option<String> {
    percent_encoding::percent_decode_str(segment).decode_utf8().ok().map(Into::into)
}

/// A completely received request.
pub(super) struct Incoming<'a> {
    pub method: &'a str,
    /// The path with its query.
    pub resource: &'a str,
    pub host: &'a str,
    pub authorization: Option<&'a str>,
    pub content_type: Option<&'a str>,
    pub payload: &'a [u8],
    /// The server's time.
    pub now: Timestamp,
}

/// The inputs of a call.
pub(super) struct Context<'a> {
    pub route: &'a Route,
    pub payload: Value,
    pub now: Timestamp,
    /// The base URL of the schemas.
    root_url: String,
    /// `None`: anonymous.
    caller: Option<Caller>,
}

/// Performs a call.
pub(super) fn perform(state: &mut State, route: &Route, incoming: &Incoming<'_>) -> Answer {
    if route.call == Call::Unknown {
        return Answer::not_found();
    }
    let mut context = Context {
        route,
        payload: json!({}),
        now: incoming.now,
        root_url: format!("http://{}", incoming.host),
        caller: None,
    };
    answer(state, &mut context, incoming).unwrap_or_else(|refusal| refusal)
}

fn answer(state: &mut State, context: &mut Context<'_>, incoming: &Incoming<'_>) -> Result<Answer, Answer> {
    let call = context.route.call;
    if call.takes_payload() {
        context.payload = payload(incoming).map_err(|message| context.error("MalformedPayload", &message))?;
    }
    if let Some(authorization) = incoming.authorization.filter(|_| !call.is_open()) {
        context.caller = Some(identify(state, context, incoming, authorization)?);
    }
    match call {
        Call::RegisterWorker => workers::register(state, context),
        Call::ReregisterWorker => workers::reregister(state, context),
        Call::ReportWorkerError => workers::report_error(state, context),
        Call::RemoveWorker => workers::remove(state, context),
        Call::ShouldWorkerTerminate => workers::should_terminate(state, context),
        Call::Worker => workers::get(state, context),
        Call::ListWorkers => workers::list(state, context),
        Call::ListWorkerPoolErrors => pools::list_errors(state, context),
        Call::WorkerPool => pools::get(state, context),
        Call::UpdateWorkerPool => pools::update(state, context),
        Call::DeleteWorkerPool => pools::delete(state, context),
        Call::LaunchConfigs => pools::launch_configs(state, context),
        Call::Secret => secrets::get(state, context),
        Call::QueueWorker => queue::get(state, context),
        Call::QuarantineWorker => queue::quarantine(state, context),
        Call::ClaimWork => queue::claim(state, context),
        Call::CurrentScopes => {
            context.authorize(state, &["auth:current-scopes".to_owned()])?;
            let held = context.caller.as_ref().map_or_else(Vec::new, |caller| caller.scopes.clone());
            Ok(Answer::ok(&json!({"scopes": normalized(&held)})))
        }
        Call::LegacyGetSecret => secrets::legacy_get(state, context),
        Call::LegacyRemoveSecret => Ok(secrets::legacy_remove(state, context)),
        Call::Ping => Ok(Answer::ok(&json!({"alive": true, "uptime": 4711.5}))),
        Call::Unknown => Ok(Answer::not_found()),
    }
}

fn identify(
    state: &mut State,
    context: &Context<'_>,
    incoming: &Incoming<'_>,
    authorization: &str,
) -> Result<Caller, Answer> {
    let (host, port) = incoming.host.rsplit_once(':').unwrap_or((incoming.host, "80"));
    let port = port.parse().unwrap_or_default();
    let signed = Signed {
        authorization,
        target: Target { method: incoming.method, resource: incoming.resource, host, port },
        content_type: incoming.content_type.unwrap_or_default(),
        payload: incoming.payload,
        now: incoming.now,
    };
    authenticate(state, &signed).map_err(|refused| match refused {
        Refused::Failed(message) => context.error("AuthenticationFailed", &message),
        Refused::Stumbled => context.internal_error(),
    })
}

/// Parses a payload. The error is the message of node's parser.
fn payload(incoming: &Incoming<'_>) -> Result<Value, String> {
    let kind = incoming.content_type.unwrap_or("null");
    if kind.split(';').next().is_none_or(|kind| kind.trim() != "application/json") {
        return Err(format!(
            "Payload must be JSON with content-type: application/json got content-type: {kind}"
        ));
    }
    let text = incoming.payload;
    match serde_json::from_slice::<Value>(text) {
        Ok(value) if value.is_object() || value.is_array() => Ok(value),
        Ok(_) => Err("Failed to parse JSON: Must be an object or array".to_owned()),
        Err(error) if error.is_eof() => Err("Failed to parse JSON: Unexpected end of JSON input".to_owned()),
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            let before: usize =
                text.split_inclusive(|byte| *byte == b'\n').take(line - 1).map(<[u8]>::len).sum();
            let what = if text.starts_with(b"{") && line == 1 && column == 2 {
                "Expected property name or '}'"
            } else {
                "Unexpected token"
            };
            let position = (before + column).saturating_sub(1);
            Err(format!(
                "Failed to parse JSON: {what} in JSON at position {position} (line {line} column {column})"
            ))
        }
    }
}

impl Context<'_> {
    /// A parameter of the path.
    pub(super) fn param(&self, key: &str) -> &str {
        self.route.params.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// A string in the payload.
    pub(super) fn text(&self, key: &str) -> &str {
        self.payload[key].as_str().unwrap_or_default()
    }

    /// An error in the services' common form.
    pub(super) fn error(&self, code: &str, message: &str) -> Answer {
        let status = match code {
            "ResourceNotFound" => 404,
            "InsufficientScopes" => 403,
            "AuthenticationFailed" => 401,
            "InternalServerError" => 500,
            _ => 400,
        };
        let method = self.route.call.method();
        let time = rfc3339(self.now);
        let message = format!(
            "{message}\n\n---\n\n* method:     {method}\n* errorCode:  {code}\n* statusCode: {status}\n\
             * time:       {time}"
        );
        let payload =
            if self.route.call.is_confidential() { json!("(OMITTED)") } else { self.payload.clone() };
        let info = json!({"method": method, "params": self.route.params, "payload": payload, "time": time});
        Answer::json(status, &json!({"code": code, "message": message, "requestInfo": info}))
    }

    /// A 500 with an incident id.
    pub(super) fn internal_error(&self) -> Answer {
        self.error("InternalServerError", &format!("Internal Server Error, incidentId {}.", random_id()))
    }

    /// The error for a payload that violates its schema.
    pub(super) fn invalid(&self, schema: &str, faults: &[String]) -> Answer {
        self.invalid_for("worker-manager", schema, faults)
    }

    pub(super) fn invalid_for(&self, service: &str, schema: &str, faults: &[String]) -> Answer {
        let message = format!(
            "\nSchema Validation Failed!\nRejecting Schema: {}/schemas/{service}/v1/{schema}.json#\nErrors:\n{}",
            self.root_url,
            faults.iter().map(|fault| format!("  * {fault}")).collect::<Vec<_>>().join("\n"),
        );
        self.error("InputValidationError", &message)
    }

    /// Checks that the caller has all these scopes.
    pub(super) fn authorize(&self, state: &State, scopes: &[String]) -> Result<(), Answer> {
        self.authorize_for(state, scopes, &expression(scopes))
    }

    /// The same, where the service writes what it wants in another way.
    pub(super) fn authorize_for(&self, state: &State, scopes: &[String], wanted: &str) -> Result<(), Answer> {
        let held = match &self.caller {
            Some(caller) => caller.scopes.clone(),
            None => expand(&[], &state.roles),
        };
        let missing: Vec<String> = scopes.iter().filter(|scope| !satisfy(&held, scope)).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let message = match &self.caller {
            Some(Caller { client_id, .. }) => format!(
                "Client ID {client_id} does not have sufficient scopes and is missing the following scopes:\n\n\
                 ```\n{}\n```\n\nThis request requires the client to satisfy the following scope expression:\n\n\
                 ```\n{wanted}\n```",
                expression(&missing),
            ),
            None => format!(
                "This request requires Taskcluster credentials that satisfy the following scope expression:\n\n\
                 ```\n{wanted}\n```"
            ),
        };
        Err(self.error("InsufficientScopes", &message))
    }
}

/// The 500 of a service that fails before it has processed anything.
pub(super) fn stumble(route: &Route, now: Timestamp) -> Answer {
    Context { route, payload: json!({}), now, root_url: String::new(), caller: None }.internal_error()
}
