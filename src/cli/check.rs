//! `start-worker check`: loads, diagnoses, shows; the diagnostics on stderr, the rest on stdout.

use std::io::{self, Write};
use std::path::PathBuf;

use start_worker::check::{Report, faults_json};
use start_worker::config::{self, Diagnostic, Level};
use start_worker::host::private_file::Access;

use super::{exit, print};

/// What `check` can be asked for.
#[derive(Debug, clap::Args)]
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

    /// Do not mask secrets
    #[arg(long)]
    show_secrets: bool,
}

/// Runs the command; its exit code.
pub(crate) fn run(arguments: &Arguments) -> u8 {
    let (report, diagnostics, code) = match config::load(&arguments.runner_config, Access::Observe) {
        Ok(loaded) => {
            let diagnostics = strictly(loaded.warnings, arguments.strict);
            let report = Report::new(&loaded.config, arguments.show_secrets);
            let faulty = diagnostics.iter().any(|diagnostic| diagnostic.level == Level::Error);
            let report = if arguments.json { report.json(&diagnostics) } else { report.text() };
            (report, diagnostics, if faulty { exit::CONFIGURATION } else { exit::OK })
        }
        Err(cause) => {
            let code = exit::load_code(&cause);
            let diagnostics = strictly(cause.into_diagnostics(), arguments.strict);
            (if arguments.json { faults_json(&diagnostics) } else { String::new() }, diagnostics, code)
        }
    };
    let printed = print(&report);
    tell(&diagnostics, arguments.json);
    match printed {
        Err(cause) if code == exit::OK => {
            let _ = writeln!(io::stderr(), "error: cannot print what is in effect: {cause}");
            exit::FAILED
        }
        _ => code,
    }
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
            // Without a stderr there is nobody to tell.
            let _ = writeln!(io::stderr(), "{}", diagnostic.labelled());
        }
    }
}
