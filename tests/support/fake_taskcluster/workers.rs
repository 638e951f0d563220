//! worker-manager's calls about workers.

use std::time::Duration;

use serde_json::{Value, json};

use super::answer::Answer;
use super::api::Context;
use super::auth::{Claims, Credentials, issue};
use super::schema;
use super::state::{ProviderType, State, Worker, WorkerKey, WorkerState, random_id, random_secret, rfc3339};

/// Credentials are valid from this long before they were issued, for hosts whose clock is behind.
const START_EARLIER: Duration = Duration::from_secs(15 * 60);

/// Maximum number of workers in a list.
const PAGE: usize = 1000;

fn key_of_path(context: &Context<'_>) -> WorkerKey {
    WorkerKey::new(context.param("workerPoolId"), context.param("workerGroup"), context.param("workerId"))
}

fn key_of_payload(context: &Context<'_>) -> WorkerKey {
    WorkerKey::new(context.text("workerPoolId"), context.text("workerGroup"), context.text("workerId"))
}

pub(super) fn register(state: &mut State, context: &Context<'_>) -> Result<Answer, Answer> {
    let faults = schema::register_worker(&context.payload, state.knows_boot_time);
    if !faults.is_empty() {
        return Err(context.invalid("register-worker-request", &faults));
    }
    let refuse = |message: String| context.error("InputError", &message);
    let missing = |what: String| context.error("ResourceNotFound", &format!("{what} does not exist"));
    let key = key_of_payload(context);
    let WorkerKey { pool, group, id } = &key;
    let provider_id = context.text("providerId");
    let definition = state.pools.get(pool).ok_or_else(|| missing(format!("Worker pool {pool}")))?;
    let provider =
        *state.providers.get(provider_id).ok_or_else(|| missing(format!("Provider {provider_id}")))?;
    if definition.get("providerId") != Some(&json!(provider_id)) {
        return Err(refuse(format!("Worker pool {pool} not associated with provider {provider_id}")));
    }
    let config = definition.get("config").cloned().unwrap_or_default();
    let worker = state
        .workers
        .get(&key)
        .ok_or_else(|| missing(format!("Worker {group}/{id} in worker pool {pool}")))?;
    if worker.provider_id != provider_id {
        return Err(refuse(format!("Worker {group}/{id} does not have provider {provider_id}")));
    }
    if worker.expires < context.now {
        return Err(refuse(format!("Worker {group}/{id} has expired")));
    }
    check_proof(provider, worker, &context.payload["workerIdentityProof"])
        .map_err(|message| refuse(message.to_owned()))?;
    let launch_config = launch_config(&config, worker);
    let (expires, credentials) = credentials(state, context, &key)?;
    let secret = random_secret();
    if let Some(worker) = state.workers.get_mut(&key) {
        worker.state = WorkerState::Running;
        worker.secret = Some(secret.clone());
    }
    let worker_config = launch_config.get("workerConfig").cloned().unwrap_or_else(|| json!({}));
    let answer = json!({"expires": expires, "credentials": credentials, "workerConfig": worker_config, "secret": secret});
    Ok(Answer::ok(&answer))
}

/// The configuration that contains a worker's `workerConfig`: the pool's config or, for clouds, the worker's launch
/// configuration.
fn launch_config(config: &Value, worker: &Worker) -> Value {
    let Some(all) = config["launchConfigs"].as_array() else { return config.clone() };
    let named = worker.launch_config_id.as_deref();
    let fits =
        |launch: &&Value| named.is_none() || launch["workerManager"]["launchConfigId"].as_str() == named;
    all.iter().find(fits).cloned().unwrap_or_default()
}

/// Checks a worker's proof of identity.
fn check_proof(provider: ProviderType, worker: &Worker, proof: &Value) -> Result<(), &'static str> {
    let has =
        |keys: &[&str]| keys.iter().all(|key| proof[*key].as_str().is_some_and(|text| !text.is_empty()));
    let expected = worker.proof.as_ref().is_none_or(|expected| expected == proof);
    let fresh = worker.state == WorkerState::Requested;
    match provider {
        ProviderType::Static if !has(&["staticSecret"]) => Err("missing staticSecret in workerIdentityProof"),
        ProviderType::Static if worker.state != WorkerState::Running => Err("worker is not running"),
        ProviderType::Static if proof["staticSecret"].as_str() != worker.static_secret.as_deref() => {
            Err("bad staticSecret in workerIdentityProof")
        }
        ProviderType::Aws if !fresh => Err("This worker is either stopped or running. No need to register"),
        ProviderType::Aws if !has(&["document", "signature"]) => {
            Err("Request must include both a document (string) and a signature")
        }
        ProviderType::Aws if !expected => Err("Instance identity document validation error"),
        ProviderType::Azure if !(fresh && has(&["document"]) && expected) => {
            Err("Signature validation error")
        }
        ProviderType::Google if !(fresh && has(&["token"]) && expected) => Err("Token validation error"),
        ProviderType::Null => Err("not supported for null provider"),
        _ => Ok(()),
    }
}

/// New credentials for a worker, and their expiry.
fn credentials(
    state: &State,
    context: &Context<'_>,
    key: &WorkerKey,
) -> Result<(String, Credentials), Answer> {
    let pool = state.pools.get(&key.pool);
    let lifecycle = pool.and_then(|pool| pool.get("config")).map(|config| &config["lifecycle"]);
    let timeout = lifecycle.and_then(|lifecycle| lifecycle["reregistrationTimeout"].as_i64());
    let life = match timeout.map(u64::try_from) {
        None => state.credentials_life,
        Some(Ok(seconds)) => Duration::from_secs(seconds),
        // The library that creates credentials throws.
        Some(Err(_)) => return Err(context.internal_error()),
    };
    let provider = state.workers.get(key).map(|worker| worker.provider_id.as_str()).unwrap_or_default();
    let expiry = context.now + life;
    let claims = Claims {
        client_id: format!("worker/{provider}/{}", key.full()),
        scopes: key.scopes(),
        start: context.now - START_EARLIER,
        expiry,
    };
    Ok((rfc3339(expiry), issue(state, &claims)))
}

pub(super) fn reregister(state: &mut State, context: &Context<'_>) -> Result<Answer, Answer> {
    let faults = schema::reregister_worker(&context.payload);
    if !faults.is_empty() {
        return Err(context.invalid("reregister-worker-request", &faults));
    }
    let key = key_of_payload(context);
    context.authorize(state, &[format!("worker-manager:reregister-worker:{}", key.full())])?;
    let refuse = |message: &str| Err(context.error("InputError", message));
    let WorkerKey { group, id, .. } = &key;
    match state.workers.get(&key) {
        None => return refuse("Could not generate credentials for this secret"),
        Some(worker) if worker.state != WorkerState::Running => {
            return refuse(&format!("Worker {group}/{id} is not running"));
        }
        Some(worker) if worker.expires < context.now => {
            return refuse(&format!("Worker {group}/{id} has expired"));
        }
        Some(worker) if worker.secret.as_deref() != context.payload["secret"].as_str() => {
            return refuse("Could not generate credentials for this secret");
        }
        Some(_) => {}
    }
    let (expires, credentials) = credentials(state, context, &key)?;
    let secret = random_secret();
    if let Some(worker) = state.workers.get_mut(&key) {
        worker.secret = Some(secret.clone());
    }
    Ok(Answer::ok(&json!({"expires": expires, "credentials": credentials, "secret": secret})))
}

pub(super) fn report_error(state: &mut State, context: &Context<'_>) -> Result<Answer, Answer> {
    let faults = schema::report_worker_error(&context.payload);
    if !faults.is_empty() {
        return Err(context.invalid("report-worker-error-request", &faults));
    }
    let pool = context.param("workerPoolId");
    let (group, id) = (context.text("workerGroup"), context.text("workerId"));
    let scopes = [format!("assume:worker-pool:{pool}"), format!("assume:worker-id:{group}/{id}")];
    context.authorize(state, &scopes)?;
    let mut extra = context.payload["extra"].clone();
    extra["workerGroup"] = json!(group);
    extra["workerId"] = json!(id);
    let error = json!({
        "errorId": random_id(), "workerPoolId": pool, "reported": rfc3339(context.now),
        "kind": context.text("kind"), "title": context.text("title"), "description": context.text("description"),
        "extra": extra,
    });
    state.errors.push_front(error.clone());
    Ok(Answer::ok(&error))
}

/// The worker in the path, if the caller has the scope for this action.
fn allowed(state: &State, context: &Context<'_>, action: &str) -> Result<WorkerKey, Answer> {
    let key = key_of_path(context);
    context.authorize(state, &[format!("worker-manager:{action}:{}", key.full())])?;
    if state.workers.contains_key(&key) {
        Ok(key)
    } else {
        Err(context.error("ResourceNotFound", "Worker not found"))
    }
}

pub(super) fn remove(state: &mut State, context: &Context<'_>) -> Result<Answer, Answer> {
    let key = allowed(state, context, "remove-worker")?;
    if let Some(worker) = state.workers.get_mut(&key) {
        worker.state = WorkerState::Stopped;
    }
    Ok(Answer::ok(&json!({})))
}

pub(super) fn should_terminate(state: &State, context: &Context<'_>) -> Result<Answer, Answer> {
    let key = allowed(state, context, "should-worker-terminate")?;
    let (terminate, reason) =
        state.workers.get(&key).map(|worker| worker.terminate.clone()).unwrap_or_default();
    Ok(Answer::ok(&json!({"terminate": terminate, "reason": reason})))
}

pub(super) fn get(state: &State, context: &Context<'_>) -> Result<Answer, Answer> {
    let key = allowed(state, context, "get-worker")?;
    Ok(Answer::ok(&json!(state.workers.get(&key).map(|worker| described(&key, worker)))))
}

pub(super) fn list(state: &State, context: &Context<'_>) -> Result<Answer, Answer> {
    let pool = context.param("workerPoolId");
    context.authorize(state, &[format!("worker-manager:list-workers:{pool}")])?;
    let ours = state.workers.iter().filter(|(key, _)| key.pool == pool).take(PAGE);
    let workers: Vec<Value> = ours.map(|(key, worker)| described(key, worker)).collect();
    Ok(Answer::ok(&json!({"workers": workers})))
}

fn described(key: &WorkerKey, worker: &Worker) -> Value {
    let created = rfc3339(worker.created);
    let mut text = json!({
        "workerPoolId": key.pool, "workerGroup": key.group, "workerId": key.id, "providerId": worker.provider_id,
        "created": created, "expires": rfc3339(worker.expires), "state": worker.state.name(), "capacity": 1,
        "lastModified": created, "lastChecked": created,
    });
    if let Some(launch_config) = &worker.launch_config_id {
        text["launchConfigId"] = json!(launch_config);
    }
    text
}
