//! `start-worker check`: loads and validates a configuration. Diagnostics are written to stderr, everything else to
//! stdout.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use start_worker::clock::SystemClock;
use start_worker::config::{self, Diagnostic, Level, RunnerConfig};
use start_worker::host::private_file::Access;
use start_worker::redact::Secrets;
use start_worker::startup::explain::{Report, counted, faults_json};
use start_worker::startup::probe::{self, Findings, Surroundings};

use super::environment::Environment;
use super::{colour, exit, print};

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line, each for itself")]
pub(crate) struct Arguments {
    /// The runner configuration (YAML or JSON)
    #[arg(value_name = "runnerConfig")]
    runner_config: PathBuf,

    /// Unknown keys are errors
    #[arg(long)]
    strict: bool,

    /// Print one JSON object, diagnostics included
    #[arg(long)]
    json: bool,

    /// Try each step of a start that has no effect: ask the provider and Taskcluster, look at the worker's program and at
    /// the files that are to be written. Exit code 1 if a start would fail
    #[arg(long)]
    online: bool,

    /// Do not mask secrets
    #[arg(long)]
    show_secrets: bool,
}

/// Runs the command. Returns its exit code.
pub(crate) fn run(arguments: &Arguments) -> u8 {
    let state_directory = Environment::read().state_directory;
    let loaded = config::load_in(&arguments.runner_config, Access::Observe, state_directory.as_deref());
    let (report, diagnostics, code) = match loaded {
        Ok(loaded) => {
            let report = Report::new(&loaded.config, arguments.show_secrets);
            let diagnostics = strictly(loaded.warnings, arguments.strict);
            let secrets = report.secrets().clone();
            let online = arguments.online.then(|| look(&loaded.config, &secrets));
            let fails = matches!(&online, Some(Ok(findings)) if findings.fails());
            let faulty = diagnostics.iter().any(|diagnostic| diagnostic.level == Level::Error);
            let online = match online.transpose() {
                Ok(online) => online,
                Err(cause) => return failed(&cause),
            };
            let probed = online.as_ref().map(Findings::verdict);
            let report = if arguments.json {
                report.json(&diagnostics, online.as_ref().map(Findings::json).zip(probed.as_deref()))
            } else {
                let verdict = report.verdict(&diagnostics, probed.as_deref());
                let online = online.as_ref().map(Findings::text).unwrap_or_default();
                format!("{}{online}\n# verdict: {verdict}\n", report.text())
            };
            let code = match (faulty, fails) {
                (true, _) => exit::CONFIGURATION,
                (false, true) => exit::FAILED,
                (false, false) => exit::OK,
            };
            (report, diagnostics, code)
        }
        Err(cause) => {
            let code = exit::load_code(&cause);
            let diagnostics = strictly(cause.into_diagnostics(), arguments.strict);
            let verdict = || format!("# verdict: {}\n", counted(&diagnostics));
            (if arguments.json { faults_json(&diagnostics) } else { verdict() }, diagnostics, code)
        }
    };
    // The verdict is printed last, so that a terminal shows it.
    tell(&diagnostics, arguments.json);
    let coloured = !arguments.json && colour::is_wanted(&io::stdout());
    let printed = if coloured { print(&colour::report(&report)) } else { print(&report) };
    match printed {
        Err(cause) if code == exit::OK => {
            super::tell(&format!("error: cannot print what is in effect: {cause}"));
            exit::FAILED
        }
        _ => code,
    }
}

fn look(config: &RunnerConfig, secrets: &Secrets) -> io::Result<Findings> {
    let Environment { proxies, metadata, runtime_directory, path, .. } = Environment::read();
    proxies.secrets().for_each(|secret| secrets.add_for_good(&secret));
    let surroundings =
        Surroundings { clock: Arc::new(SystemClock), proxies, metadata, runtime_directory, path };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = runtime.block_on(probe::look(config, &surroundings));
    let findings = findings.masked(secrets);
    // Does not wait for a host name that is still being resolved.
    runtime.shutdown_background();
    Ok(findings)
}

fn failed(cause: &io::Error) -> u8 {
    super::tell(&format!("error: cannot look online: {cause}"));
    exit::FAILED
}

fn strictly(mut diagnostics: Vec<Diagnostic>, strict: bool) -> Vec<Diagnostic> {
    if strict {
        for diagnostic in diagnostics.iter_mut().filter(|diagnostic| diagnostic.level == Level::UnknownKey) {
            diagnostic.level = Level::Error;
        }
    }
    diagnostics
}

fn tell(diagnostics: &[Diagnostic], json: bool) {
    if !json {
        for diagnostic in diagnostics {
            super::tell(&diagnostic.labelled());
        }
    }
}
