//! `generic-worker`: Taskcluster's worker for all platforms.

use std::collections::BTreeMap;
use std::path::Path;

use secrecy::ExposeSecret;

use super::{InPlace, Start, config_file, explain_plainly, failure, is_true, location_text};
use super::{set_certificate, set_from_metadata};
use crate::event::{Exit, ExitClass, ExitStatus};
use crate::run_spec::worker_config::{Merged, Source};
use crate::run_spec::{Object, Run};

/// The configuration keys that are set from the provider's metadata.
const FROM_METADATA: [(&str, &str); 6] = [
    ("publicIP", "public-ipv4"),
    ("privateIP", "local-ipv4"),
    ("instanceType", "instance-type"),
    ("instanceID", "instance-id"),
    ("region", "region"),
    ("availabilityZone", "availability-zone"),
];

/// Keys for the runner. generic-worker refuses to start with unknown keys.
pub(super) const FOR_THE_RUNNER: [&str; 2] = ["deploymentId", "checkForNewDeploymentEverySecs"];

/// Sets the keys that generic-worker requires in its configuration.
pub(super) fn configure(config: &mut Merged, run: &Run) {
    set_from_metadata(config, run, &FROM_METADATA);
    let metadata = run.provider_metadata.clone().into();
    config.merge(Object::from_iter([("workerTypeMetadata".to_owned(), metadata)]), &Source::Implementation);
    let pool = &run.identity.worker_pool_id;
    for (key, value) in [
        ("workerLocation", location_text(run).as_str()),
        ("rootURL", &run.root_url),
        ("clientId", &run.credentials.client_id),
        ("accessToken", run.credentials.access_token.expose_secret()),
        ("workerGroup", &run.identity.worker_group),
        ("workerId", &run.identity.worker_id),
        ("provisionerId", pool.provisioner_id()),
        ("workerType", pool.worker_type()),
    ] {
        config.set(&[key], value.into());
    }
    set_certificate(config, &["certificate"], run);
}

/// Determines how generic-worker is started.
pub(super) fn start(path: &Path, config_path: &Path, config: &Merged) -> Start {
    let mut object = config.object().clone();
    for key in FOR_THE_RUNNER {
        object.remove(key);
    }
    let file = config_path.to_string_lossy().into_owned();
    let args = vec!["run".to_owned(), "--config".to_owned(), file, "--with-worker-runner".to_owned()];
    Start {
        program: path.to_owned(),
        or_else: None,
        args,
        env: BTreeMap::new(),
        config_file: Some(config_file(config_path.to_owned(), object)),
        restart_in_place: if is_true(config, "headlessTasks") { InPlace::Yes } else { InPlace::AskVersion },
        counts_tasks: true,
        explain,
    }
}

/// Interprets generic-worker's exit statuses.
fn explain(status: ExitStatus) -> Exit {
    let ExitStatus::Code(code) = status else { return explain_plainly(status) };
    let (class, meaning) = match code {
        0 => (ExitClass::Done, "tasks complete"),
        64 => (ExitClass::BadConfiguration, "cannot load its configuration"),
        67 => (ExitClass::Reboot, "reboot required"),
        68 => (ExitClass::Idle, "idle for too long"),
        69 => (ExitClass::Unfit, "internal error, or this host is not fit for tasks"),
        70 => (ExitClass::Done, "worker-manager told it to stop"),
        71 => (ExitClass::Interrupted, "stopped (interrupted)"),
        72 => (ExitClass::Done, "shut down (graceful termination done)"),
        73 => (ExitClass::BadConfiguration, "invalid configuration"),
        77 => (ExitClass::BadConfiguration, "cannot secure its configuration"),
        78 => (ExitClass::Crash, "cannot connect its protocol pipe"),
        82 => (ExitClass::BadConfiguration, "no signing key"),
        code => (ExitClass::Crash, failure(code)),
    };
    Exit { status, class, meaning }
}

/// The engine in generic-worker's version output: `multiuser` in `generic-worker (multiuser engine) 106.0.0 [ revision:
/// https://… ]`.
pub fn engine_named_in(version_output: &str) -> Option<&str> {
    version_output.lines().find_map(|line| {
        let (engine, _) = line.trim_start().strip_prefix("generic-worker (")?.split_once(" engine)")?;
        Some(engine).filter(|engine| !engine.is_empty() && !engine.contains(char::is_whitespace))
    })
}
