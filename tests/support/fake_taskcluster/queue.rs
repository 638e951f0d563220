//! The queue's calls about workers: it knows one once it has asked for tasks.

use std::time::Duration;

use serde_json::{Value, json};

use super::answer::Answer;
use super::api::Context;
use super::schema;
use super::state::{State, WorkerKey, rfc3339};

fn key(context: &Context<'_>) -> WorkerKey {
    let pool = format!("{}/{}", context.param("provisionerId"), context.param("workerType"));
    WorkerKey::new(&pool, context.param("workerGroup"), context.param("workerId"))
}

fn unknown(context: &Context<'_>, more: &str) -> Answer {
    let [provisioner, kind, group, id] =
        ["provisionerId", "workerType", "workerGroup", "workerId"].map(|name| context.param(name));
    let message = format!(
        "Worker with workerId `{id}`, workerGroup `{group}`,worker-type `{kind}` and provisionerId `{provisioner}` not found.{more}"
    );
    context.error("ResourceNotFound", &message)
}

pub(super) fn get(state: &State, context: &Context<'_>) -> Result<Answer, Answer> {
    let key = key(context);
    context.authorize(state, &[format!("queue:get-worker:{}", key.full())])?;
    let more = " Are you sure it was created?";
    state.queue.get(&key).map(Answer::ok).ok_or_else(|| unknown(context, more))
}

pub(super) fn quarantine(state: &mut State, context: &Context<'_>) -> Result<Answer, Answer> {
    let faults = schema::quarantine_worker(&context.payload);
    if !faults.is_empty() {
        return Err(context.invalid_for("queue", "quarantine-worker-request", &faults));
    }
    let key = key(context);
    let scopes = [format!("queue:quarantine-worker:{}", key.full())];
    let wanted = format!("{:#}", json!({"AllOf": &scopes}));
    context.authorize_for(state, &scopes, &wanted)?;
    let worker = state.queue.get_mut(&key).ok_or_else(|| unknown(context, ""))?;
    worker["quarantineUntil"] = context.payload["quarantineUntil"].clone();
    Ok(Answer::ok(worker))
}

pub(super) fn claim(state: &mut State, context: &Context<'_>) -> Result<Answer, Answer> {
    let pool = context.param("taskQueueId");
    let (group, id) = (context.text("workerGroup"), context.text("workerId"));
    let scopes = [format!("queue:claim-work:{pool}"), format!("queue:worker-id:{group}/{id}")];
    context.authorize(state, &scopes)?;
    let key = WorkerKey::new(pool, group, id);
    let worker = described(&key, context);
    state.queue.entry(key).or_insert(worker);
    Ok(Answer::ok(&json!({"tasks": []})))
}

/// A worker that has just asked for its first task: its quarantine ended ten years ago.
fn described(key: &WorkerKey, context: &Context<'_>) -> Value {
    let (provisioner, kind) = key.pool.split_once('/').unwrap_or((&key.pool, ""));
    let (now, day) = (rfc3339(context.now), Duration::from_secs(24 * 3600));
    json!({
        "taskQueueId": key.pool, "workerGroup": key.group, "workerId": key.id,
        "quarantineUntil": rfc3339(context.now - 3652 * day), "expires": rfc3339(context.now + day),
        "firstClaim": now, "recentTasks": [], "lastDateActive": now, "provisionerId": provisioner,
        "workerType": kind, "actions": [],
    })
}
