//! Reads the section `worker`.

use super::keys;
use super::section::Section;
use super::{Implementation, RestartInPlace, WorkerSettings};

/// Reads the section. `None`: the implementation is missing or unknown, which has been reported.
pub(super) fn read(section: Option<Section<'_>>) -> Option<WorkerSettings> {
    let mut section = section?;
    let name = section.choice(&keys::IMPLEMENTATION);
    if !name.is_empty() {
        section.set_variant(name);
    }
    let implementation = implementation(&mut section, name);
    let restart_in_place = match section.choice(&keys::RESTART_IN_PLACE) {
        "true" => RestartInPlace::Yes,
        "false" => RestartInPlace::No,
        _ => RestartInPlace::Auto,
    };
    let args = section.strings(&keys::ARGS);
    let env = section.string_map(&keys::ENV);
    let cwd = section.optional_path(&keys::CWD);
    let user = section.optional_string(&keys::USER);
    let hello_timeout = section.duration(&keys::HELLO_TIMEOUT);
    let oom_score_adj = section.integer(&keys::OOM_SCORE_ADJ);
    section.finish();
    let implementation = implementation?;
    Some(WorkerSettings {
        implementation,
        args,
        env,
        cwd,
        user,
        hello_timeout,
        restart_in_place,
        oom_score_adj,
    })
}

fn implementation(section: &mut Section<'_>, name: &str) -> Option<Implementation> {
    Some(match name {
        "dummy" => Implementation::Dummy { show_secrets: section.boolean(&keys::SHOW_SECRETS) },
        "generic-worker" => {
            let service = section.optional_string(&keys::SERVICE);
            let pipe = section.optional_string(&keys::PROTOCOL_PIPE);
            // A Windows configuration has no path. It loads everywhere, and cannot start here.
            let windows = service.is_some() || pipe.is_some();
            let path =
                (!windows || section.has(&keys::WORKER_PATH)).then(|| section.path(&keys::WORKER_PATH));
            Implementation::GenericWorker { path, config_path: section.path(&keys::CONFIG_PATH) }
        }
        "docker-worker" => Implementation::DockerWorker {
            path: section.path(&keys::WORKER_PATH),
            config_path: section.path(&keys::CONFIG_PATH),
        },
        "command" => Implementation::Command {
            path: section.path(&keys::WORKER_PATH),
            config_path: section.optional_path(&keys::OPTIONAL_CONFIG_PATH),
            credentials_in_environment: section.boolean(&keys::CREDENTIALS_IN_ENVIRONMENT),
        },
        _ => return None,
    })
}
