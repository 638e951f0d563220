//! The runner configuration in effect: every key with its value or default, in the form of the file.

use std::path::Path;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::{
    AfterRun, Autologin, CloudConfig, DisplayManager, FixedIdentity, Hook, HostSettings, Implementation,
    LogFormat, OnReboot, OnUnfit, ProviderConfig, Restart, RestartInPlace, RunnerConfig, StatusSocket,
    Supervision, WorkerSettings, keys,
};
use crate::host::autologin::name::{SessionName, UserName};
use crate::redact;

/// The configuration in effect. Unless `show_secrets` is set, credentials, the static secret and all values whose key
/// names a secret are masked.
pub fn effective(config: &RunnerConfig, show_secrets: bool) -> Value {
    let mut value = json!({
        "provider": provider(&config.provider),
        "worker": worker(&config.worker),
        "workerConfig": config.worker_config,
        "getSecrets": config.get_secrets,
        "cacheOverRestarts": config.cache_over_restarts.as_deref().map(path),
        "logging": {"implementation": log_format(config.logging)},
        "supervision": supervision(&config.supervision),
        "deployment": {"poll": config.deployment.poll, "interval": duration(config.deployment.interval)},
        "startTimeout": start_timeout(config).map(duration),
        "host": host(&config.host),
        "hooks": {
            "waitFor": config.hooks.wait_for.iter().map(|at| path(at)).collect::<Vec<_>>(),
            "beforeStart": config.hooks.before_start.as_ref().map(hook),
            "afterRun": config.hooks.after_run.as_ref().map(hook),
        },
        "events": {"file": config.events_file.as_deref().map(path)},
        "autologin": autologin(&config.autologin),
        "status": {"socket": socket(&config.status_socket)},
        "metrics": {"listen": config.metrics_listen.map(|address| address.to_string())},
    });
    if !show_secrets {
        mask(&mut value, &secrets(&config.provider));
    }
    value
}

/// The secrets in the provider's section. They must be masked everywhere, because an alias or an argument may repeat
/// them.
pub fn secrets(provider: &ProviderConfig) -> Vec<&str> {
    let secrets = match provider {
        ProviderConfig::Standalone(config) => vec![Some(&config.access_token), config.certificate.as_ref()],
        ProviderConfig::Static(config) => vec![Some(&config.static_secret)],
        ProviderConfig::Aws(_)
        | ProviderConfig::Azure(_)
        | ProviderConfig::Google(_)
        | ProviderConfig::AwsProvisioner(_) => Vec::new(),
    };
    secrets.into_iter().flatten().map(ExposeSecret::expose_secret).collect()
}

/// All strings whose key names a secret, anywhere in the configuration.
pub fn secrets_by_key(config: &RunnerConfig) -> Vec<String> {
    let (shown, mut masked) = (effective(config, true), effective(config, true));
    redact::mask_by_key(&mut masked);
    let mut secrets = Vec::new();
    add_differences(&shown, &masked, &mut secrets);
    secrets
}

/// The worker's configured public names.
pub fn public_names(config: &RunnerConfig) -> Vec<String> {
    let provider = provider(&config.provider);
    let names = ["rootURL", "providerID", "workerPoolID", "workerGroup", "workerID", "clientID"];
    names.iter().filter_map(|name| provider.get(*name)?.as_str().map(str::to_owned)).collect()
}

fn add_differences(shown: &Value, masked: &Value, secrets: &mut Vec<String>) {
    match (shown, masked) {
        (Value::Object(shown), Value::Object(masked)) => {
            shown
                .iter()
                .zip(masked.values())
                .for_each(|((_, one), other)| add_differences(one, other, secrets));
        }
        (Value::Array(shown), Value::Array(masked)) => {
            shown.iter().zip(masked).for_each(|(one, other)| add_differences(one, other, secrets));
        }
        (Value::String(shown), masked) if masked != shown => secrets.push(shown.clone()),
        _ => {}
    }
}

/// Masks the secret keys of the runner configuration, then all keys that name a secret, then all repetitions of a known
/// secret.
fn mask(value: &mut Value, known: &[&str]) {
    for key in [&keys::ACCESS_TOKEN, &keys::CERTIFICATE, &keys::STATIC_SECRET] {
        if let Some(secret @ Value::String(_)) = value.pointer_mut(&format!("/{}/{}", key.section, key.name))
        {
            *secret = Value::String(redact::MASK.to_owned());
        }
    }
    redact::mask_by_key(value);
    for anything in ["/workerConfig", "/worker/args", "/worker/env", "/provider/providerMetadata"] {
        if let Some(value) = value.pointer_mut(anything) {
            redact::mask_known(value, known);
        }
    }
}

/// The default depends on the provider: a cloud's machines are replaced, others are not.
fn start_timeout(config: &RunnerConfig) -> Option<Duration> {
    let dynamic = config.provider.is_dynamic();
    config.start_timeout.or(dynamic.then_some(Duration::from_secs(15 * 60)))
}

fn provider(provider: &ProviderConfig) -> Value {
    let mut keys = match provider {
        ProviderConfig::Standalone(standalone) => {
            let mut keys = identity(&standalone.identity);
            keys.insert("clientID".to_owned(), json!(standalone.client_id));
            keys.insert("accessToken".to_owned(), secret(&standalone.access_token));
            keys.insert(
                "certificate".to_owned(),
                standalone.certificate.as_ref().map_or(Value::Null, secret),
            );
            keys
        }
        ProviderConfig::Static(fixed) => {
            let mut keys = identity(&fixed.identity);
            keys.insert("providerID".to_owned(), json!(fixed.provider_id));
            keys.insert("staticSecret".to_owned(), secret(&fixed.static_secret));
            keys
        }
        ProviderConfig::Aws(cloud) => {
            let mut keys = finish_tasks(cloud);
            let on_rebalance = if cloud.drain_on_rebalance { "drain" } else { "ignore" };
            keys.insert("onRebalance".to_owned(), json!(on_rebalance));
            keys
        }
        ProviderConfig::Azure(cloud) => {
            let mut keys = finish_tasks(cloud);
            keys.insert("acknowledgeEvents".to_owned(), json!(cloud.acknowledge_events));
            keys
        }
        ProviderConfig::Google(cloud) | ProviderConfig::AwsProvisioner(cloud) => finish_tasks(cloud),
    };
    keys.insert("providerType".to_owned(), json!(provider.provider_type()));
    Value::Object(keys)
}

fn identity(identity: &FixedIdentity) -> Map<String, Value> {
    object(json!({
        "rootURL": identity.root_url,
        "workerPoolID": identity.worker_pool_id,
        "workerGroup": identity.worker_group,
        "workerID": identity.worker_id,
        "providerMetadata": identity.provider_metadata,
        "workerLocation": identity.worker_location,
    }))
}

fn finish_tasks(cloud: &CloudConfig) -> Map<String, Value> {
    object(json!({"finishTasksIfDeadlineOver": cloud.finish_tasks_if_deadline_over.map(duration)}))
}

fn worker(worker: &WorkerSettings) -> Value {
    let mut keys = object(match &worker.implementation {
        Implementation::Dummy { show_secrets } => json!({"showSecrets": show_secrets}),
        Implementation::GenericWorker { path: program, config_path } => {
            json!({"path": program.as_deref().map(path), "configPath": path(config_path)})
        }
        Implementation::DockerWorker { path: folder, config_path } => {
            json!({"path": path(folder), "configPath": path(config_path)})
        }
        Implementation::Command { path: program, config_path, credentials_in_environment } => json!({
            "path": path(program),
            "configPath": config_path.as_deref().map(path),
            "credentialsInEnvironment": credentials_in_environment,
        }),
    });
    keys.extend(object(json!({
        "implementation": worker.implementation.name(),
        "args": worker.args,
        "env": worker.env,
        "cwd": worker.cwd.as_deref().map(path),
        "user": worker.user,
        "helloTimeout": duration(worker.hello_timeout),
        "restartInPlace": match worker.restart_in_place {
            RestartInPlace::Auto => json!("auto"),
            RestartInPlace::Yes => json!(true),
            RestartInPlace::No => json!(false),
        },
        "oomScoreAdj": worker.oom_score_adj,
    })));
    Value::Object(keys)
}

fn log_format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Stdio => "stdio",
        LogFormat::Json => "json",
        LogFormat::Journald => "journald",
    }
}

fn supervision(supervision: &Supervision) -> Value {
    json!({
        "restart": match supervision.restart {
            Restart::Never => "never",
            Restart::OnFailure => "on-failure",
            Restart::Always => "always",
        },
        "maxRestarts": supervision.max_restarts,
        "restartWindow": duration(supervision.restart_window),
        "reportOutputLines": supervision.report_output_lines,
        "killDescendants": supervision.kill_descendants,
        "backoff": {"initial": duration(supervision.backoff_initial), "max": duration(supervision.backoff_max)},
        "failureBackoff": {
            "initial": duration(supervision.failure_backoff.initial),
            "max": duration(supervision.failure_backoff.max),
        },
        "drainTimeout": duration(supervision.drain_timeout),
        "stopTimeout": duration(supervision.stop_timeout),
        "killTimeout": duration(supervision.kill_timeout),
        "drainIdleTimeout": duration(supervision.drain_idle_timeout),
        "onReboot": match supervision.on_reboot {
            OnReboot::Auto => "auto",
            OnReboot::Wait => "wait",
            OnReboot::Restart => "restart",
            OnReboot::Reboot => "reboot",
            OnReboot::Exit => "exit",
        },
        "rebootTimeout": duration(supervision.reboot_timeout),
        "afterRun": match supervision.after_run {
            AfterRun::Exit => "exit",
            AfterRun::Reboot => "reboot",
            AfterRun::PowerOff => "poweroff",
        },
        "onUnfit": match supervision.on_unfit {
            OnUnfit::Restart => "restart",
            OnUnfit::Exit => "exit",
            OnUnfit::Hold => "hold",
            OnUnfit::Quarantine => "quarantine",
        },
        "quarantineFor": duration(supervision.quarantine_for),
        "maxTasks": supervision.max_tasks,
        "maxUptime": supervision.max_uptime.map(duration),
    })
}

fn host(host: &HostSettings) -> Value {
    json!({
        "shutdownOnStartFailure": host.shutdown_on_start_failure,
        "startFailureDelay": duration(host.start_failure_delay),
        "shutdownStatic": host.shutdown_static,
        "shutdownCommand": host.shutdown_command,
        "rebootCommand": host.reboot_command,
        "forceShutdownCommand": host.force_shutdown_command,
        "forceRebootCommand": host.force_reboot_command,
    })
}

fn hook(hook: &Hook) -> Value {
    json!({"command": hook.command, "timeout": duration(hook.timeout)})
}

fn autologin(autologin: &Autologin) -> Value {
    json!({
        "displayManager": match autologin.display_manager {
            DisplayManager::Auto => "auto",
            DisplayManager::Gdm => "gdm",
            DisplayManager::Lightdm => "lightdm",
            DisplayManager::Sddm => "sddm",
            DisplayManager::Getty => "getty",
            DisplayManager::None => "none",
        },
        "user": autologin.user.as_ref().map(UserName::as_str),
        "session": autologin.session.as_ref().map(SessionName::as_str),
        "tty": autologin.tty.as_str(),
        "root": path(&autologin.root),
        "allowedUsers": autologin.allowed_users,
    })
}

fn socket(socket: &StatusSocket) -> Value {
    match socket {
        StatusSocket::Default => match keys::SOCKET.default {
            keys::Default::Value(text) => json!(text),
            keys::Default::Required | keys::Default::Absent(_) => Value::Null,
        },
        StatusSocket::None => Value::Null,
        StatusSocket::At(at) => path(at),
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

fn path(path: &Path) -> Value {
    Value::String(path.display().to_string())
}

fn secret(secret: &SecretString) -> Value {
    Value::String(secret.expose_secret().to_owned())
}

/// Formats a duration in the units that operators use: hours rather than days.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() > 0 {
        return humantime::format_duration(duration).to_string();
    }
    match (seconds % 3600, seconds % 60) {
        (0, _) if seconds > 0 => format!("{}h", seconds / 3600),
        (_, 0) if seconds > 0 => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}
