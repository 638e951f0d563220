//! The interface for manual use: `POST /fake/…` changes the state of the running server. See [`HELP`].

use std::time::Duration;

use serde_json::{Value, json};

use super::Shared;
use super::answer::Answer;
use super::faults::{Fault, Times};
use super::state::{Secret, WorkerKey};

/// The supported requests, for `--help` and for the answer to an unknown request.
pub const HELP: &str = "\
POST /fake/pool/<pool>                     a pool's definition, or the keys of it that change
POST /fake/deployment/<pool>               {\"deploymentId\": \"d2\"}: in the pool's worker configuration
POST /fake/secret/<name>                   the secret itself: {\"config\": {…}, \"files\": […]}
POST /fake/terminate/<pool>/<group>/<id>   {\"terminate\": true, \"reason\": \"over capacity\"}
POST /fake/fail                            {\"fault\": \"bad-gateway\", \"call\": \"registerWorker\", \"times\": 3};
                                           call may also be any (as without it) or signed; times 0: until cleared
POST /fake/clear                           nothing fails any more; who hangs goes on
GET  /fake/requests                        the requests so far
In a path, a pool's slash may be written as it is. Faults: internal-error, bad-gateway, gateway-timeout,
too-many-requests, reset, answer-lost, hang, late-answer, truncated, garbage, reset-at-accept.";

/// The delay of an answer with `late-answer`.
const LATE: Duration = Duration::from_secs(5);
/// Lifetime of a secret.
const SECRET_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Performs a request.
pub(crate) fn perform(shared: &Shared, method: &str, path: &str, payload: &[u8]) -> Answer {
    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
    let mut parts = path.trim_start_matches("/fake/").splitn(2, '/');
    let (what, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let body: Value = match payload {
        [] => json!({}),
        text => match serde_json::from_slice(text) {
            Ok(body) => body,
            Err(error) => return wrong(&format!("the body is no JSON: {error}")),
        },
    };
    let done = match (method, what) {
        ("GET", "requests") => return requests(shared),
        ("POST", "pool") => set_pool(shared, rest, body),
        ("POST", "deployment") => set_deployment(shared, rest, &body),
        ("POST", "secret") => set_secret(shared, rest, body),
        ("POST", "terminate") => terminate(shared, rest, &body),
        ("POST", "fail") => fail(shared, &body),
        ("POST", "clear") => {
            shared.faults.clear_all();
            Ok(())
        }
        _ => Err("there is no such thing"),
    };
    done.map_or_else(wrong, |()| Answer::text(200, "text/plain; charset=utf-8", "done\n"))
}

fn wrong(why: &str) -> Answer {
    Answer::text(400, "text/plain; charset=utf-8", &format!("{why}\n\n{HELP}\n"))
}

fn requests(shared: &Shared) -> Answer {
    let all: Vec<Value> = shared
        .record
        .requests()
        .iter()
        .map(|request| {
            json!({
                "call": request.call, "method": request.method, "path": request.path, "status": request.status,
                "signed": request.signed, "refusal": request.refusal, "userAgent": request.user_agent,
            })
        })
        .collect();
    Answer::ok(&json!(all))
}

fn set_pool(shared: &Shared, id: &str, definition: Value) -> Result<(), &'static str> {
    if !definition.is_object() {
        return Err("a pool's definition is an object");
    }
    let now = shared.now();
    shared.state().set_pool(id, definition, now);
    Ok(())
}

fn set_deployment(shared: &Shared, id: &str, body: &Value) -> Result<(), &'static str> {
    let deployment = body["deploymentId"].as_str().ok_or("deploymentId must be a string")?;
    let now = shared.now();
    let mut state = shared.state();
    let mut config = state.pools.get(id).ok_or("no such pool")?.get("config").cloned().unwrap_or_default();
    let worker_config = &mut config["workerConfig"];
    // If a worker's name is the only key, it contains the configuration; otherwise the whole object is the
    // configuration.
    let nested = worker_config.as_object_mut().filter(|object| object.len() == 1);
    let nested =
        nested.and_then(|object| object.values_mut().next()).filter(|value| value["config"].is_object());
    match nested {
        Some(worker) => worker["config"]["deploymentId"] = json!(deployment),
        None => worker_config["deploymentId"] = json!(deployment),
    }
    state.set_pool(id, json!({"config": config}), now);
    Ok(())
}

fn set_secret(shared: &Shared, name: &str, value: Value) -> Result<(), &'static str> {
    if !value.is_object() {
        return Err("a secret is an object");
    }
    let expires = shared.now() + SECRET_LIFE;
    shared.state().secrets.insert(name.to_owned(), Secret { value, expires });
    Ok(())
}

fn terminate(shared: &Shared, worker: &str, body: &Value) -> Result<(), &'static str> {
    let mut parts = worker.rsplitn(3, '/');
    let (Some(id), Some(group), Some(pool)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("a worker is <pool>/<group>/<id>");
    };
    let terminate = body["terminate"].as_bool().unwrap_or(true);
    let reason = body["reason"].as_str().unwrap_or("over capacity").to_owned();
    let mut state = shared.state();
    let worker = state.workers.get_mut(&WorkerKey::new(pool, group, id)).ok_or("no such worker")?;
    worker.terminate = (terminate, reason);
    Ok(())
}

fn fail(shared: &Shared, body: &Value) -> Result<(), &'static str> {
    let fault = match body["fault"].as_str().ok_or("which fault?")? {
        "internal-error" => Fault::InternalError,
        "bad-gateway" => Fault::bad_gateway(),
        "gateway-timeout" => Fault::gateway_timeout(),
        "too-many-requests" => Fault::too_many_requests("5"),
        "reset" => Fault::Reset,
        "answer-lost" => Fault::AnswerLost,
        "hang" => Fault::Hang,
        "late-answer" => Fault::LateAnswer(LATE),
        "truncated" => Fault::truncated(),
        "garbage" => Fault::garbage(),
        "reset-at-accept" => Fault::ResetAtAccept,
        _ => return Err("no such fault"),
    };
    let times = match body["times"].as_u64().unwrap_or(1) {
        0 => Times::UntilCleared,
        times => Times::Only(u32::try_from(times).map_err(|_| "too many times")?),
    };
    shared.faults.add(body["call"].as_str().unwrap_or("any"), times, fault);
    Ok(())
}
