//! `docker-worker`: Taskcluster's legacy worker, which runs tasks in containers.

use std::collections::BTreeMap;
use std::path::Path;

use secrecy::ExposeSecret;
use serde_json::Value;

use super::{InPlace, OrElse, Start, config_file, explain_plainly, location_text};
use super::{set_certificate, set_from_metadata};
use crate::run_spec::Run;
use crate::run_spec::worker_config::Merged;

/// The configuration keys that are set from the provider's metadata.
const FROM_METADATA: [(&str, &str); 7] = [
    ("host", "public-hostname"),
    ("publicIp", "public-ipv4"),
    ("privateIp", "local-ipv4"),
    ("workerNodeType", "instance-type"),
    ("instanceType", "instance-type"),
    ("instanceId", "instance-id"),
    ("region", "region"),
];

/// Sets the keys that docker-worker requires in its configuration.
pub(super) fn configure(config: &mut Merged, run: &Run) {
    set_from_metadata(config, run, &FROM_METADATA);
    let pool = &run.identity.worker_pool_id;
    let token = run.credentials.access_token.expose_secret();
    let settings: [(&[&str], &str); 8] = [
        (&["workerLocation"], &location_text(run)),
        (&["rootUrl"], &run.root_url),
        (&["taskcluster", "clientId"], &run.credentials.client_id),
        (&["taskcluster", "accessToken"], token),
        (&["workerId"], &run.identity.worker_id),
        (&["workerGroup"], &run.identity.worker_group),
        (&["provisionerId"], pool.provisioner_id()),
        (&["workerType"], pool.worker_type()),
    ];
    for (path, value) in settings {
        config.set(path, value.into());
    }
    set_certificate(config, &["taskcluster", "certificate"], run);
    // Nothing else ends the instances of this provider.
    if run.identity.provider_id == "aws-provisioner" {
        config.set(&["shutdown", "enabled"], Value::Bool(true));
        config.set(&["shutdown", "afterIdleSeconds"], 900.into());
    }
}

/// Determines how docker-worker is started: a release has a script; a clone of its repository has none.
pub(super) fn start(path: &Path, config_path: &Path, config: &Merged) -> Start {
    let args = vec!["--host".to_owned(), "worker-runner".to_owned(), "production".to_owned()];
    let clone = path.join("src/bin/worker.js").to_string_lossy().into_owned();
    let file = config_path.to_string_lossy().into_owned();
    Start {
        program: path.join("bin/docker-worker"),
        or_else: Some(OrElse { program: "node".into(), first: clone }),
        args,
        env: BTreeMap::from([("DOCKER_WORKER_CONFIG".to_owned(), file.into())]),
        config_file: Some(config_file(config_path.to_owned(), config.object().clone())),
        restart_in_place: InPlace::Yes,
        counts_tasks: false,
        explain: explain_plainly,
    }
}
