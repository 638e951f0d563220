//! The `start-worker` command: arguments, runner configuration, log, run, exit code.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use start_worker::clock::CommonClock;
use start_worker::config::RunnerConfig;
use start_worker::error_chain::ErrorChain;
use start_worker::event::Outcome;
use start_worker::host::blocking::{self, Lanes, MainThread, Unanswered};
use start_worker::host::{helper, limits, memory, oom, private_file, trust};
use start_worker::output::Output;
use start_worker::redact::Secrets;
use start_worker::telemetry::last_run::LastRun;
use start_worker::telemetry::logging::{self, Filter, FilterError, LogLevel};
use start_worker::telemetry::recent_warnings::{Known, RecentWarnings};
use start_worker::watch::signals::{Blocked, Signals};
use start_worker::{Host, LAST_LINES_TIME, RunError, config};
use tokio::runtime::Runtime;
use tracing::{error, info, warn};

mod cli;

use cli::environment::Environment;
use cli::log::Log;
use cli::{Arguments, exit};

/// Time limit for blocking writes after everything else has ended.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// Time limit for reading the runner configuration.
const READ_TIME: Duration = Duration::from_secs(30);

/// Time limit for checking the files of the certificate authorities. Without an answer, the start continues.
const LOOK_TIME: Duration = Duration::from_secs(5);

/// Rust's own exit code for a panic.
const PANICKED: u8 = 101;

/// Runs everything except the start of workers on a second thread. The main thread executes the workers' programs: it
/// may block for as long as a disk takes, and it lives as long as the runner.
fn main() -> ExitCode {
    let arguments = Arguments::read();
    if arguments.short_version {
        // If nobody reads the output, the failure does not matter.
        let _ = writeln!(std::io::stdout(), "{}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if let Some(command) = &arguments.command {
        return ExitCode::from(command.run());
    }
    let blocked = Blocked::now();
    memory::bound_heap();
    let environment = Environment::read();
    let (runtime, signals) = match set_up(blocked) {
        Ok(set_up) => set_up,
        Err(reason) => {
            return ExitCode::from(refuse(&environment, exit::FAILED, &format!("error: {reason}")));
        }
    };
    let (main_thread, jobs) = MainThread::new();
    let lanes = Lanes::new(main_thread);
    let runner = move || end(supervise(arguments, (environment, lanes), (runtime, signals)));
    match std::thread::Builder::new().name("runner".to_owned()).spawn(runner) {
        Ok(runner) => {
            jobs.serve();
            // The thread ends the process, unless it panics.
            let _ = runner.join();
            ExitCode::from(PANICKED)
        }
        Err(cause) => {
            let reason = format!("error: {}", no_threads(&cause));
            ExitCode::from(refuse(&Environment::read(), exit::FAILED, &reason))
        }
    }
}

/// Acquires the runner's resources from the kernel: descriptors, signals, threads. Signals are caught before any other
/// thread exists, because it would inherit that they are blocked.
fn set_up(blocked: Blocked) -> Result<(Runtime, Signals), String> {
    limits::enough_descriptors()?;
    let runtime = blocking::runtime().map_err(|cause| format!("cannot start the runtime: {cause}"))?;
    let caught = {
        let _within = runtime.enter();
        Signals::catch(blocked)
    };
    let signals = caught.map_err(|cause| format!("cannot catch signals: {cause}"))?;
    match blocking::start_threads(runtime.handle()) {
        Ok(()) => Ok((runtime, signals)),
        Err(cause) => {
            runtime.shutdown_background();
            Err(no_threads(&cause))
        }
    }
}

fn no_threads(cause: &std::io::Error) -> String {
    format!("cannot start the runner's threads: {cause} (see `ulimit -u`, TasksMax=)")
}

/// Ends the process without waiting for other threads.
#[expect(clippy::exit, clippy::disallowed_methods, reason = "the main thread may wait for a dead disk")]
fn end(code: u8) -> ! {
    std::process::exit(code.into())
}

fn supervise(
    arguments: Arguments,
    (environment, lanes): (Environment, Lanes),
    (runtime, mut signals): (Runtime, Signals),
) -> u8 {
    let (filter, wrong_level) = match (arguments.log_level, environment.log_level.as_deref().map(str::parse))
    {
        (Some(filter), _) | (None, Some(Ok(filter))) => (filter, None),
        (None, Some(Err(cause))) => (Filter::default(), Some(cause)),
        (None, None) => (Filter::default(), None),
    };
    let path = arguments.runner_config.unwrap_or_default();
    let last_run = LastRun::new(environment.state_directory.as_deref(), &path, lanes.last_run.clone());
    let (code, reason) = match runtime.block_on(load(&path, &environment, &lanes, &mut signals)) {
        Ok(Some(Ok(loaded))) => {
            let outside = (environment, lanes, last_run);
            return start(&path, loaded, outside, (filter, wrong_level), (runtime, signals));
        }
        Ok(Some(Err(refused))) => refused,
        Ok(None) => {
            (exit::OK, format!("stopped before the runner configuration {} was read", path.display()))
        }
        Err(cause) => (exit::FAILED, format!("error: cannot read the runner configuration: {cause}")),
    };
    runtime.block_on(last_run.end(code, &reason, &Known::default()));
    // The thread that reads the file may never return.
    runtime.shutdown_background();
    refuse(&environment, code, &reason)
}

/// Reads the runner configuration. `None`: a stop signal arrived first.
async fn load(
    path: &Path,
    environment: &Environment,
    lanes: &Lanes,
    signals: &mut Signals,
) -> Result<Option<Result<config::Loaded, (u8, String)>>, Unanswered> {
    let (file, state_directory) = (path.to_owned(), environment.state_directory.clone());
    let read = move || {
        config::load_in(&file, private_file::Access::Tighten, state_directory.as_deref())
            .map_err(|cause| (exit::load_code(&cause), cli::load_error(&cause)))
    };
    let loading = async {
        match exposed_authority(environment, lanes).await {
            Some(reason) => Ok(Err((exit::PERMISSIONS, format!("error: {reason}")))),
            None => lanes.runner_config.at(path, READ_TIME, read).await,
        }
    };
    tokio::select! {
        biased;
        () = signals.end() => Ok(None),
        loaded = loading => loaded.map(Some),
    }
}

/// Explains that other users could decide which servers TLS trusts. A path that does not answer now is checked again
/// before it is used.
async fn exposed_authority(environment: &Environment, lanes: &Lanes) -> Option<String> {
    for (variable, path) in environment.proxies.authorities.clone() {
        let at = path.clone();
        let look = move || trust::exposed_authority(variable, &at);
        if let Ok(Some(reason)) = lanes.certificates.at(&path, LOOK_TIME, look).await {
            return Some(reason);
        }
    }
    None
}

/// Reports a failure before there is a log, on stderr. The journal records it as an error.
fn refuse(environment: &Environment, code: u8, reason: &str) -> u8 {
    let priority = if cli::log::is_read_by_journal(std::io::stderr(), environment) { "<3>" } else { "" };
    // A failure cannot be reported without a stderr.
    let _ = writeln!(std::io::stderr(), "{priority}{reason}");
    code
}

fn start(
    path: &Path,
    loaded: config::Loaded,
    (environment, lanes, last_run): (Environment, Lanes, LastRun),
    (filter, wrong_level): (Filter, Option<FilterError>),
    runtime: (Runtime, Signals),
) -> u8 {
    let config = loaded.config;
    let opened = Log::open(config.logging, &environment)
        .and_then(|log| Ok((Output::start(log.sink, log.format)?, log.format, log.warning)));
    let (output, format, warning) = match opened {
        Ok(opened) => opened,
        Err(cause) => {
            let reason = format!("error: cannot start the log: {cause}{}", helper::hint_of_kernel(&cause));
            runtime.0.block_on(last_run.end(exit::FAILED, &reason, &Known::default()));
            return refuse(&environment, exit::FAILED, &reason);
        }
    };
    let secrets = Secrets::default();
    let recent_warnings = RecentWarnings::default();
    logging::mask_panics(secrets.clone());
    let log_level =
        logging::install(output.log_sink(), format, filter, secrets.clone(), recent_warnings.clone());
    let (version, provider) = (env!("CARGO_PKG_VERSION"), config.provider.provider_type());
    info!(name: "runner-started", version, config = %path.display(), provider, worker = config.worker.implementation.name(), "start-worker starts");
    for warning in loaded.warnings {
        warn!("{warning}");
    }
    if let Some(cause) = wrong_level {
        warn!("START_WORKER_LOG is not used, the level is info: {cause}");
    }
    if let Some(warning) = warning {
        warn!("{warning}");
    }
    let result =
        run(config, (environment, lanes, last_run), (secrets, recent_warnings, log_level), runtime, &output);
    match &result {
        Ok(outcome) if outcome.is_as_intended() => {
            info!(name: "runner-ended", "start-worker ends: {outcome}");
        }
        Ok(outcome) => {
            error!(name: "runner-ended", exit_code = exit::code(&result), "start-worker ends: {outcome}");
        }
        Err(cause) => {
            error!(name: "runner-ended", exit_code = exit::code(&result), "start-worker ends: {}", ErrorChain(cause));
        }
    }
    output.close(LAST_LINES_TIME);
    exit::code(&result)
}

fn run(
    config: RunnerConfig,
    (environment, lanes, last_run): (Environment, Lanes, LastRun),
    (secrets, recent_warnings, log_level): (Secrets, RecentWarnings, LogLevel),
    (runtime, signals): (Runtime, Signals),
    output: &Output,
) -> Result<Outcome, RunError> {
    let dummy = matches!(config.worker.implementation, config::Implementation::Dummy { .. });
    if !dummy {
        oom::spare_runner();
        oom::forbid_dumps();
        // Nothing waits for its disk; the record of the end follows on the same lane.
        drop(runtime.spawn(last_run.clone().begin()));
    }
    let (known_secrets, warnings) = (secrets.clone(), recent_warnings.observe());
    let host = Host {
        clock: Arc::new(CommonClock::new()),
        runtime_directory: environment.runtime_directory,
        state_directory: environment.state_directory,
        proxies: environment.proxies,
        secrets,
        metadata: environment.metadata,
        service_manager: environment.service_manager,
        lanes,
        recent_warnings,
        log_level,
    };
    let result = runtime.block_on(start_worker::run(config, host, signals, output));
    if !dummy {
        let outcome = result.as_ref().map_or_else(|cause| ErrorChain(cause).to_string(), Outcome::to_string);
        let warnings = warnings.borrow().clone();
        runtime.block_on(last_run.end(exit::code(&result), &known_secrets.mask(outcome), &warnings));
    }
    // A write that hangs on a dead disk must not keep the runner from ending.
    runtime.shutdown_timeout(LAST_WRITES);
    result
}
