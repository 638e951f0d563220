//! The secrets service, and the legacy aws-provisioner's one-time secrets.

use std::time::Duration;

use serde_json::json;

use super::answer::Answer;
use super::api::Context;
use super::auth::{Claims, issue};
use super::state::{State, rfc3339};

/// Lifetime of the credentials of a legacy secret.
const LEGACY_LIFE: Duration = Duration::from_secs(96 * 3600);

pub(super) fn get(state: &State, context: &Context<'_>) -> Result<Answer, Answer> {
    let name = context.param("name");
    context.authorize(state, &[format!("secrets:get:{name}")])?;
    let secret = state.secrets.get(name).filter(|secret| secret.expires > context.now);
    let secret = secret.ok_or_else(|| context.error("ResourceNotFound", "Secret not found"))?;
    Ok(Answer::ok(&json!({"secret": secret.value, "expires": rfc3339(secret.expires)})))
}

pub(super) fn legacy_get(state: &State, context: &Context<'_>) -> Result<Answer, Answer> {
    let secret = state.legacy_secrets.get(context.param("token"));
    let secret = secret.ok_or_else(|| context.error("ResourceNotFound", "Secret not found"))?;
    let claims = Claims {
        client_id: "worker/aws-provisioner".to_owned(),
        scopes: secret.scopes.clone(),
        start: context.now - Duration::from_secs(15 * 60),
        expiry: context.now + LEGACY_LIFE,
    };
    let credentials = issue(state, &claims);
    Ok(Answer::ok(&json!({"data": secret.data, "credentials": credentials, "scopes": secret.scopes})))
}

pub(super) fn legacy_remove(state: &mut State, context: &Context<'_>) -> Answer {
    state.legacy_secrets.remove(context.param("token"));
    Answer::ok(&json!({}))
}
