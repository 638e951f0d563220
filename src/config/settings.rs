//! Reads the top-level keys and the sections about the runner itself.

use std::path::PathBuf;
use std::time::Duration;

use super::node::Kind;
use super::section::Section;
use super::{
    AfterRun, Autologin, Deployment, DisplayManager, Hook, Hooks, HostSettings, Implementation, LogFormat,
    OnReboot, OnUnfit, ProviderConfig, Restart, RunnerConfig, StatusSocket, Supervision, WorkerSettings,
    keys, provider, worker,
};
use crate::host::autologin::name::{SessionName, Tty, UserName};
use crate::retry::FailureBackoff;

/// The cache's name in the state directory if the configuration gives no path (`cacheOverRestarts: true`).
const USUAL_CACHE: &str = "run.json";

/// Reads the file. `None`: a missing or invalid value leaves no configuration, which has been reported.
pub(super) fn read(mut top: Section<'_>) -> Option<RunnerConfig> {
    let provider = provider::read(top.section(&keys::PROVIDER, "provider"));
    let worker = worker::read(top.section(&keys::WORKER, "worker"));
    let worker_config = top.object(&keys::WORKER_CONFIG);
    let get_secrets = top.boolean(&keys::GET_SECRETS);
    let cache_over_restarts = cache(&mut top);
    let start_timeout = top.optional_duration(&keys::START_TIMEOUT);
    let logging = top.section(&keys::LOGGING, "logging").map(logging);
    let supervision = top.section(&keys::SUPERVISION, "supervision").map(supervision);
    let deployment = top.section(&keys::DEPLOYMENT, "deployment").map(deployment);
    let host = top.section(&keys::HOST, "host").map(host);
    let hooks = top.section(&keys::HOOKS, "hooks").map(hooks);
    let events_file = top.section(&keys::EVENTS, "events").map(events);
    let autologin = top.section(&keys::AUTOLOGIN, "autologin").map(autologin);
    let status_socket = top.section(&keys::STATUS, "status").map(status);
    let metrics_listen = top.section(&keys::METRICS, "metrics").map(metrics);
    if let (Some(provider), Some(worker), Some(supervision)) = (&provider, &worker, &supervision) {
        warn_of_combinations(&top, provider, worker, supervision);
    }
    top.finish();
    Some(RunnerConfig {
        provider: provider?,
        worker: worker?,
        worker_config,
        get_secrets,
        cache_over_restarts,
        logging: logging?,
        supervision: supervision?,
        deployment: deployment?,
        start_timeout,
        host: host?,
        hooks: hooks?,
        events_file: events_file?,
        autologin: autologin?,
        status_socket: status_socket?,
        metrics_listen: metrics_listen?,
    })
}

/// Keys that have no effect with this provider or worker.
fn warn_of_combinations(
    top: &Section<'_>,
    provider: &ProviderConfig,
    worker: &WorkerSettings,
    supervision: &Supervision,
) {
    let notes = &top.reader.notes;
    if supervision.after_run != AfterRun::Exit && provider.is_dynamic() {
        let provider = provider.provider_type();
        let message = format!(
            "has no effect with providerType {provider}: such a machine is deregistered and replaced; remove it"
        );
        notes.warning(None, &keys::AFTER_RUN.path(), message);
    }
    if matches!(supervision.on_unfit, OnUnfit::Hold | OnUnfit::Quarantine) && provider.is_dynamic() {
        let provider = provider.provider_type();
        let message = format!(
            "has the effect of exit with providerType {provider}: such a machine is deregistered and replaced"
        );
        notes.warning(None, &keys::ON_UNFIT.path(), message);
    }
    if supervision.max_tasks.is_some()
        && !matches!(worker.implementation, Implementation::GenericWorker { .. })
    {
        let worker = worker.implementation.name();
        let message = format!(
            "has no effect with implementation {worker}: only generic-worker tells of its tasks; remove it"
        );
        notes.warning(None, &keys::MAX_TASKS.path(), message);
    }
}

fn cache(top: &mut Section<'_>) -> Option<PathBuf> {
    let given = top.entry(&keys::CACHE)?;
    match &given.node.kind {
        Kind::Boolean(true) => {
            top.ignore(&keys::CACHE);
            let usual = top.reader.state_directory.join(USUAL_CACHE);
            let message = format!(
                "expected a path, found the boolean true; taken as {}; write the path",
                usual.display()
            );
            top.reader.notes.warning(given.id, &keys::CACHE.path(), message);
            Some(usual)
        }
        // Existing files use this for no cache.
        Kind::Boolean(false) => {
            top.ignore(&keys::CACHE);
            None
        }
        Kind::String(text) if text.is_empty() => {
            top.ignore(&keys::CACHE);
            None
        }
        _ => top.optional_path(&keys::CACHE),
    }
}

fn logging(mut section: Section<'_>) -> LogFormat {
    // An invalid value must not prevent a host from starting.
    let given = section.take(&keys::LOG_FORMAT);
    let chosen = given.map_or(Ok("stdio"), |given| {
        section.choose(&keys::LOG_FORMAT, &given.node, given.id).map_err(|hint| (given, hint))
    });
    let name = chosen.unwrap_or_else(|(given, hint)| {
        let found = section.reader.describe(&given.node, false);
        let hint =
            if hint.is_empty() { "stdio is used".to_owned() } else { format!("stdio is used; {hint}") };
        let message = super::reader::expected(&keys::LOG_FORMAT.takes.in_words(), &found, &hint);
        section.reader.notes.warning(given.id, &keys::LOG_FORMAT.path(), message);
        "stdio"
    });
    section.finish();
    match name {
        "json" => LogFormat::Json,
        "journald" => LogFormat::Journald,
        _ => LogFormat::Stdio,
    }
}

fn supervision(mut section: Section<'_>) -> Supervision {
    let mut supervision = Supervision {
        restart: match section.choice(&keys::RESTART) {
            "never" => Restart::Never,
            "always" => Restart::Always,
            _ => Restart::OnFailure,
        },
        max_restarts: section.integer(&keys::MAX_RESTARTS),
        restart_window: section.duration(&keys::RESTART_WINDOW),
        report_output_lines: section.integer(&keys::REPORT_OUTPUT_LINES),
        kill_descendants: section.boolean(&keys::KILL_DESCENDANTS),
        drain_timeout: section.duration(&keys::DRAIN_TIMEOUT),
        stop_timeout: section.duration(&keys::STOP_TIMEOUT),
        kill_timeout: section.duration(&keys::KILL_TIMEOUT),
        drain_idle_timeout: section.duration(&keys::DRAIN_IDLE_TIMEOUT),
        on_reboot: match section.choice(&keys::ON_REBOOT) {
            "wait" => OnReboot::Wait,
            "restart" => OnReboot::Restart,
            "reboot" => OnReboot::Reboot,
            "exit" => OnReboot::Exit,
            _ => OnReboot::Auto,
        },
        reboot_timeout: section.duration(&keys::REBOOT_TIMEOUT),
        after_run: match section.choice(&keys::AFTER_RUN) {
            "reboot" => AfterRun::Reboot,
            "poweroff" => AfterRun::PowerOff,
            _ => AfterRun::Exit,
        },
        on_unfit: match section.choice(&keys::ON_UNFIT) {
            "exit" => OnUnfit::Exit,
            "hold" => OnUnfit::Hold,
            "quarantine" => OnUnfit::Quarantine,
            _ => OnUnfit::Restart,
        },
        quarantine_for: section.duration(&keys::QUARANTINE_FOR),
        max_tasks: Some(section.integer(&keys::MAX_TASKS)).filter(|tasks| *tasks > 0),
        max_uptime: section.optional_duration(&keys::MAX_UPTIME),
        ..Supervision::default()
    };
    if let Some(backoff) = section.section(&keys::BACKOFF, "supervision.backoff")
        && let Some((initial, max)) = read_backoff(backoff, &keys::BACKOFF_INITIAL, &keys::BACKOFF_MAX)
    {
        (supervision.backoff_initial, supervision.backoff_max) = (initial, max);
    }
    if let Some(backoff) = section.section(&keys::FAILURE_BACKOFF, "supervision.failureBackoff")
        && let Some((initial, max)) =
            read_backoff(backoff, &keys::FAILURE_BACKOFF_INITIAL, &keys::FAILURE_BACKOFF_MAX)
    {
        supervision.failure_backoff = FailureBackoff { initial, max };
    }
    section.finish();
    supervision
}

/// Reads a section of `initial` and `max`, of which `max` is the longer. `None`: one of them has been reported.
fn read_backoff(
    mut section: Section<'_>,
    initial_key: &'static keys::Key,
    max_key: &'static keys::Key,
) -> Option<(Duration, Duration)> {
    let both_given = section.has(initial_key) && section.has(max_key);
    let only_initial = section.has(initial_key) && !both_given;
    let id = section.entry(max_key).or_else(|| section.entry(initial_key)).map(|given| given.id);
    let initial = section.optional_duration(initial_key);
    let max = section.optional_duration(max_key);
    if let (Some(initial), Some(max)) = (initial, max)
        && max < initial
    {
        let default = if only_initial { " (the default)" } else { "" };
        let [initial, max] = [initial, max].map(humantime::format_duration);
        let message = format!("expected not less than initial ({initial}), found {max}{default}; raise it");
        section.reader.notes.error(id, &max_key.path(), message);
    }
    section.finish();
    initial.zip(max)
}

fn deployment(mut section: Section<'_>) -> Deployment {
    let deployment =
        Deployment { poll: section.boolean(&keys::POLL), interval: section.duration(&keys::INTERVAL) };
    section.finish();
    deployment
}

fn host(mut section: Section<'_>) -> HostSettings {
    let defaults = HostSettings::default();
    let [shutdown_command, reboot_command] =
        [&keys::SHUTDOWN_COMMAND, &keys::REBOOT_COMMAND].map(|key| section.strings(key));
    let host = HostSettings {
        shutdown_on_start_failure: section.boolean(&keys::SHUTDOWN_ON_START_FAILURE),
        start_failure_delay: section.duration(&keys::START_FAILURE_DELAY),
        shutdown_static: section.boolean(&keys::SHUTDOWN_STATIC),
        // A command configured by the operator may do something other than taking the host down (a test, a container, a
        // cloud's API), so only the default command is followed by a default force command.
        force_shutdown_command: section
            .optional_strings(&keys::FORCE_SHUTDOWN_COMMAND)
            .or(defaults.force_shutdown_command.filter(|_| shutdown_command == defaults.shutdown_command)),
        force_reboot_command: section
            .optional_strings(&keys::FORCE_REBOOT_COMMAND)
            .or(defaults.force_reboot_command.filter(|_| reboot_command == defaults.reboot_command)),
        shutdown_command,
        reboot_command,
    };
    section.finish();
    host
}

fn hooks(mut section: Section<'_>) -> Hooks {
    let hook = |section: Option<Section<'_>>, command, timeout| {
        let mut section = section?;
        let hook = Hook { command: section.strings(command), timeout: section.duration(timeout) };
        section.finish();
        Some(hook)
    };
    let before_start = section.section(&keys::HOOK_BEFORE_START, "hooks.beforeStart");
    let after_run = section.section(&keys::HOOK_AFTER_RUN, "hooks.afterRun");
    let hooks = Hooks {
        wait_for: section.absolute_paths(&keys::WAIT_FOR),
        before_start: hook(before_start, &keys::BEFORE_START_COMMAND, &keys::BEFORE_START_TIMEOUT),
        after_run: hook(after_run, &keys::AFTER_RUN_COMMAND, &keys::AFTER_RUN_TIMEOUT),
    };
    section.finish();
    hooks
}

fn events(mut section: Section<'_>) -> Option<PathBuf> {
    let file = section.optional_path(&keys::EVENTS_FILE);
    section.finish();
    file
}

fn autologin(mut section: Section<'_>) -> Autologin {
    let autologin = Autologin {
        display_manager: match section.choice(&keys::DISPLAY_MANAGER) {
            "gdm" => DisplayManager::Gdm,
            "lightdm" => DisplayManager::Lightdm,
            "sddm" => DisplayManager::Sddm,
            "getty" => DisplayManager::Getty,
            "none" => DisplayManager::None,
            _ => DisplayManager::Auto,
        },
        user: section.optional_string(&keys::AUTOLOGIN_USER).and_then(|name| UserName::parse(&name).ok()),
        session: section.optional_string(&keys::SESSION).and_then(|name| SessionName::parse(&name).ok()),
        tty: Tty::parse(&section.string(&keys::TTY)).unwrap_or_default(),
        root: section.path(&keys::AUTOLOGIN_ROOT),
        allowed_users: section.optional_string(&keys::ALLOWED_USERS),
    };
    section.finish();
    autologin
}

fn status(mut section: Section<'_>) -> StatusSocket {
    let socket = match section.entry(&keys::SOCKET).map(|given| given.node.kind) {
        None => StatusSocket::Default,
        Some(Kind::Null) => StatusSocket::None,
        Some(_) => StatusSocket::At(section.path(&keys::SOCKET)),
    };
    section.ignore(&keys::SOCKET);
    section.finish();
    socket
}

fn metrics(mut section: Section<'_>) -> Option<std::net::SocketAddr> {
    let listen = section.address(&keys::LISTEN);
    section.finish();
    listen
}
