//! worker-manager's calls about pools. Runners only use `workerPool`; the rest is for administrators.

use serde_json::{Value, json};

use super::answer::Answer;
use super::api::Context;
use super::state::State;

/// Maximum `reregistrationTimeout` in seconds: 30 days.
const LONGEST_TIMEOUT: i64 = 30 * 24 * 3600;

pub(super) fn get(state: &State, context: &Context<'_>) -> Result<Answer, Answer> {
    let id = context.param("workerPoolId");
    context.authorize(state, &[format!("worker-manager:get-worker-pool:{id}")])?;
    let pool = state.pools.get(id).ok_or_else(|| no_pool(context))?;
    Ok(Answer::ok(&json!(pool)))
}

fn no_pool(context: &Context<'_>) -> Answer {
    context.error("ResourceNotFound", "Worker pool does not exist")
}

pub(super) fn update(state: &mut State, context: &Context<'_>) -> Result<Answer, Answer> {
    let id = context.param("workerPoolId");
    let provider = format!("worker-manager:provider:{}", context.text("providerId"));
    context.authorize(state, &[format!("worker-manager:manage-worker-pool:{id}"), provider])?;
    let timeout = context.payload["config"]["lifecycle"]["reregistrationTimeout"].as_i64();
    if timeout.is_some_and(|timeout| timeout > LONGEST_TIMEOUT) {
        let fault = format!("data/lifecycle/reregistrationTimeout must be <= {LONGEST_TIMEOUT}");
        return Err(context.invalid("config-static", &[fault]));
    }
    if !state.pools.contains_key(id) {
        return Err(no_pool(context));
    }
    state.set_pool(id, context.payload.clone(), context.now);
    Ok(Answer::ok(&json!(state.pools.get(id))))
}

/// worker-manager keeps such a pool, with the `null-provider`, until its workers are gone.
pub(super) fn delete(state: &mut State, context: &Context<'_>) -> Result<Answer, Answer> {
    let id = context.param("workerPoolId");
    context.authorize(state, &[format!("worker-manager:manage-worker-pool:{id}")])?;
    if !state.pools.contains_key(id) {
        return Err(no_pool(context));
    }
    state.set_pool(id, json!({"providerId": "null-provider"}), context.now);
    let answer = Answer::ok(&json!(state.pools.remove(id)));
    Ok(answer)
}

pub(super) fn launch_configs(state: &State, context: &Context<'_>) -> Result<Answer, Answer> {
    let id = context.param("workerPoolId");
    context.authorize(state, &[format!("worker-manager:list-worker-pool-launch-configs:{id}")])?;
    Ok(Answer::ok(&json!({"workerPoolLaunchConfigs": []})))
}

pub(super) fn list_errors(state: &State, context: &Context<'_>) -> Result<Answer, Answer> {
    let id = context.param("workerPoolId");
    context.authorize(state, &[format!("worker-manager:list-worker-pool-errors:{id}")])?;
    let errors: Vec<&Value> =
        state.errors.iter().filter(|error| error["workerPoolId"] == json!(id)).collect();
    Ok(Answer::ok(&json!({"workerPoolErrors": errors})))
}
