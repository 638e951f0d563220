//! `command`: any program as a worker.

use std::collections::BTreeMap;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{InPlace, Start, config_file, explain_plainly};
use crate::credentials::Credentials;
use crate::run_spec::worker_config::Merged;
use crate::run_spec::{Object, Run};

/// Adds the object `taskcluster`: the worker's identity and credentials.
pub(super) fn configure(config: &mut Merged, run: &Run) {
    let mut taskcluster = Object::new();
    for (key, value) in [
        ("rootUrl", run.root_url.as_str()),
        ("clientId", &run.credentials.client_id),
        ("accessToken", run.credentials.access_token.expose_secret()),
        ("workerPoolId", run.identity.worker_pool_id.as_str()),
        ("workerGroup", &run.identity.worker_group),
        ("workerId", &run.identity.worker_id),
    ] {
        taskcluster.insert(key.to_owned(), value.into());
    }
    if let Some(certificate) = &run.credentials.certificate {
        taskcluster.insert("certificate".to_owned(), certificate.expose_secret().into());
    }
    config.set(&["taskcluster"], Value::Object(taskcluster));
}

/// Determines how the program is started. `credentials`, if given, are passed in its environment.
pub(super) fn start(
    path: &Path,
    config_path: Option<&Path>,
    config: &Merged,
    credentials: Option<&Credentials>,
) -> Start {
    Start {
        program: path.to_owned(),
        or_else: None,
        args: Vec::new(),
        env: credentials.map(variables).unwrap_or_default(),
        config_file: config_path.map(|path| config_file(path.to_owned(), config.object().clone())),
        restart_in_place: InPlace::Yes,
        counts_tasks: false,
        explain: explain_plainly,
    }
}

fn variables(credentials: &Credentials) -> BTreeMap<String, SecretString> {
    let mut variables = BTreeMap::from([
        ("TASKCLUSTER_CLIENT_ID".to_owned(), credentials.client_id.clone().into()),
        ("TASKCLUSTER_ACCESS_TOKEN".to_owned(), credentials.access_token.clone()),
    ]);
    if let Some(certificate) = &credentials.certificate {
        variables.insert("TASKCLUSTER_CERTIFICATE".to_owned(), certificate.clone());
    }
    variables
}
