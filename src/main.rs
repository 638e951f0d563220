//! The `start-worker` command: arguments, runner configuration, log, run, exit code.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use start_worker::chain::Chain;
use start_worker::clock::CommonClock;
use start_worker::config::RunnerConfig;
use start_worker::event::Outcome;
use start_worker::host::{memory, oom, private_file, trust};
use start_worker::observe::logging;
use start_worker::output::Output;
use start_worker::redact::Secrets;
use start_worker::troubles::Troubles;
use start_worker::watch::signals::{Blocked, Signals};
use start_worker::{Host, LAST_LINES_TIME, RunError, config};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

mod cli;

use cli::environment::Environment;
use cli::log::Log;
use cli::{Arguments, exit};

/// How long what blocks may still take when all else has ended.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// What the runtime takes from the kernel at once; it has a handful of descriptors, and keeps room for each.
const IO_EVENTS: usize = 64;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.short_version {
        // Whoever does not read the answer needs none.
        let _ = writeln!(std::io::stdout(), "{}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if let Some(command) = &arguments.command {
        return ExitCode::from(command.run());
    }
    let blocked = Blocked::now();
    memory::bound_heap();
    let environment = Environment::read();
    let level = arguments.log_level.as_ref().or(environment.log_level.as_ref());
    let filter =
        match level.map_or_else(|| Ok(logging::Filter::default()), |text| logging::Filter::parse(text)) {
            Ok(filter) => filter,
            Err(cause) => {
                return refuse(
                    &environment,
                    exit::USAGE,
                    &format!("error: --log-level (or START_WORKER_LOG): {cause}"),
                );
            }
        };
    let (runtime, mut signals) = match catch_signals(blocked) {
        Ok(caught) => caught,
        Err(cause) => {
            return refuse(&environment, exit::FAILED, &format!("error: cannot start the runtime: {cause}"));
        }
    };
    let path = arguments.runner_config.unwrap_or_default();
    match load(&path, &environment, &runtime, &mut signals) {
        Ok(Some(Ok(loaded))) => start(&path, loaded, environment, filter, (runtime, signals)),
        Ok(Some(Err((code, reason)))) => refuse(&environment, code, &reason),
        Ok(None) => refuse(
            &environment,
            exit::OK,
            &format!("stopped before the runner configuration {} was read", path.display()),
        ),
        Err(cause) => {
            let reason = format!("error: cannot read the runner configuration: {cause}");
            refuse(&environment, exit::FAILED, &reason)
        }
    }
}

fn catch_signals(blocked: Blocked) -> std::io::Result<(Runtime, Signals)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(IO_EVENTS)
        .build()?;
    let signals = {
        let _within = runtime.enter();
        Signals::catch(blocked)?
    };
    Ok((runtime, signals))
}

/// Reads the runner configuration on a thread of its own, for the file may be on a disk that never answers. `None`: a
/// signal came first; an error: the exit code, and why.
fn load(
    path: &Path,
    environment: &Environment,
    runtime: &Runtime,
    signals: &mut Signals,
) -> std::io::Result<Option<Result<config::Loaded, (u8, String)>>> {
    let (loaded, loading) = oneshot::channel();
    let (path, state_directory) = (path.to_owned(), environment.state_directory.clone());
    let authorities = environment.authorities.clone();
    // The thread is not joined: it ends with the process, whatever the disk does.
    std::thread::Builder::new().name("configuration".to_owned()).spawn(move || {
        // Nobody waits for it after a signal.
        let access = private_file::Access::Tighten;
        let _ = loaded.send(match exposed_authorities(&authorities) {
            Some(reason) => Err((exit::PERMISSIONS, format!("error: {reason}"))),
            None => config::load_in(&path, access, state_directory.as_deref())
                .map_err(|cause| (exit::load_code(&cause), cli::load_error(&cause))),
        });
    })?;
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = signals.end() => Ok(None),
            result = loading => result.map(Some).map_err(std::io::Error::other),
        }
    })
}

/// Why whom TLS trusts is up to somebody else than root and this user: they could answer in Taskcluster's place, and an
/// answer can have files written as root. Blocks: on the disk.
fn exposed_authorities(authorities: &[(&str, PathBuf)]) -> Option<String> {
    authorities.iter().find_map(|(variable, path)| {
        let found = std::fs::metadata(path).ok()?;
        let (at, uid, mode) = (path.display(), found.uid(), found.mode() & 0o7777);
        let (what, fix) = if !trust::is_trusted(uid) {
            (format!("belongs to uid {uid}"), trust::chown(path))
        } else if trust::others_write(&found) {
            (format!("can be written by other users (mode {mode:04o})"), trust::chmod_go_w(path))
        } else {
            return None;
        };
        Some(format!("{variable}: {at} {what}, who could have start-worker trust another server; `{fix}`"))
    })
}

/// Before there is a log: the reason on stderr. The journal takes it for an error.
fn refuse(environment: &Environment, code: u8, reason: &str) -> ExitCode {
    let priority = if cli::log::is_read_by_journal(std::io::stderr(), environment) { "<3>" } else { "" };
    // Without a stderr there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{priority}{reason}");
    ExitCode::from(code)
}

fn start(
    path: &Path,
    loaded: config::Loaded,
    environment: Environment,
    filter: logging::Filter,
    runtime: (Runtime, Signals),
) -> ExitCode {
    let config = loaded.config;
    let opened = Log::open(config.logging, &environment)
        .and_then(|log| Ok((Output::start(log.sink, log.format)?, log.format, log.warning)));
    let (output, format, warning) = match opened {
        Ok(opened) => opened,
        Err(cause) => {
            return refuse(&environment, exit::FAILED, &format!("error: cannot start the log: {cause}"));
        }
    };
    let secrets = Secrets::default();
    let troubles = Troubles::default();
    logging::mask_panics(secrets.clone());
    logging::install(output.log_sink(), format, filter, secrets.clone(), troubles.clone());
    let (version, provider) = (env!("CARGO_PKG_VERSION"), config.provider.provider_type());
    info!(version, config = %path.display(), provider, worker = config.worker.implementation.name(), "start-worker starts");
    for warning in loaded.warnings {
        warn!("{warning}");
    }
    if let Some(warning) = warning {
        warn!("{warning}");
    }
    let result = run(config, environment, (secrets, troubles), runtime, &output);
    match &result {
        Ok(outcome) if outcome.is_as_intended() => {
            info!("start-worker ends: {outcome}");
        }
        Ok(outcome) => error!(exit_code = exit::code(&result), "start-worker ends: {outcome}"),
        Err(cause) => error!(exit_code = exit::code(&result), "start-worker ends: {}", Chain(cause)),
    }
    output.close(LAST_LINES_TIME);
    ExitCode::from(exit::code(&result))
}

fn run(
    config: RunnerConfig,
    environment: Environment,
    (secrets, troubles): (Secrets, Troubles),
    (runtime, signals): (Runtime, Signals),
    output: &Output,
) -> Result<Outcome, RunError> {
    let dummy = matches!(config.worker.implementation, config::Implementation::Dummy { .. });
    if !dummy {
        oom::spare_runner();
        oom::forbid_dumps();
    }
    let host = Host {
        clock: Arc::new(CommonClock::new()),
        runtime_directory: environment.runtime_directory,
        state_directory: environment.state_directory,
        proxies: environment.proxies,
        secrets,
        metadata: environment.metadata,
        service_manager: environment.service_manager,
        troubles,
    };
    let result = runtime.block_on(start_worker::run(config, host, signals, output));
    // A write that a dead disk never ends must not keep the runner.
    runtime.shutdown_timeout(LAST_WRITES);
    result
}
