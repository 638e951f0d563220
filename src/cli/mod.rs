//! The command line: arguments, commands and their exit codes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use start_worker::config::{self, LoadError};
use start_worker::error_chain::ErrorChain;
use start_worker::telemetry::logging::Filter;

pub(crate) mod autologin;
pub(crate) mod check;
pub(crate) mod colour;
pub(crate) mod drain;
pub(crate) mod environment;
pub(crate) mod exit;
pub(crate) mod hold;
pub(crate) mod log;
pub(crate) mod log_level;
pub(crate) mod resume;
pub(crate) mod socket;
pub(crate) mod status;

/// Starts and supervises the worker of a Taskcluster worker machine.
#[derive(Debug, Parser)]
#[command(name = "start-worker", version, propagate_version = true, arg_required_else_help = true)]
#[command(override_usage = "start-worker [OPTIONS] <runnerConfig>\n       \
        start-worker check [OPTIONS] <runnerConfig>\n       \
        start-worker status [--json] [--watch | --wait <STATE> [--timeout <TIME>]] [--socket <PATH>]\n       \
        start-worker drain [--wait] [--once | --reason <TEXT>] [--socket <PATH>]\n       \
        start-worker hold [--reason <TEXT>] [--drain] [--socket <PATH>] [--config <runnerConfig>]\n       \
        start-worker resume [--socket <PATH>] [--config <runnerConfig>]\n       \
        start-worker log-level <LEVEL> [--for <TIME>] [--socket <PATH>]\n       \
        start-worker autologin show|set <USER>|clear [--config <runnerConfig>]\n       \
        start-worker autologin apply <runnerConfig>")]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Manual pages: start-worker(1), start-worker.yml(5), and one for each command: man start-worker-status"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// The runner configuration (YAML or JSON); see `man start-worker.yml`
    #[arg(value_name = "runnerConfig", required_unless_present = "short_version")]
    pub(crate) runner_config: Option<PathBuf>,

    /// What is logged: error, warn, info, debug or trace; also per module, as in
    /// `info,start_worker::supervisor=debug`. Default: `START_WORKER_LOG`, else info
    #[arg(long, value_name = "LEVEL", global = true)]
    pub(crate) log_level: Option<Filter>,

    /// Print the version alone
    #[arg(long)]
    pub(crate) short_version: bool,
}

impl Arguments {
    /// Parses the command line. Exits the process if it is invalid or asks for help.
    pub(crate) fn read() -> Self {
        let word = std::env::args_os().nth(1).and_then(|word| word.into_string().ok());
        if let Some((word, command)) = word.and_then(|word| mistyped(&word).map(|command| (word, command))) {
            let message =
                format!("unrecognized command '{word}'\n\n  tip: a similar command exists: '{command}'\n");
            Self::command().error(ErrorKind::InvalidSubcommand, message).exit();
        }
        match Self::try_parse() {
            Ok(arguments) => arguments,
            // Each command would have a name of its own there: `start-worker-check 0.1.0`.
            Err(asked) if asked.kind() == ErrorKind::DisplayVersion => {
                Self::parse_from(["start-worker", "--version"])
            }
            Err(error) => error.exit(),
        }
    }
}

/// The command that was probably meant by a word that is neither a command nor a file.
fn mistyped(word: &str) -> Option<String> {
    let is_command_like =
        word.starts_with(|first: char| first.is_ascii_alphabetic()) && !word.contains(['.', '/']);
    let commands = Arguments::command();
    let names: Vec<&str> = commands.get_subcommands().map(clap::Command::get_name).chain(["help"]).collect();
    if !is_command_like || names.contains(&word) || Path::new(word).exists() {
        return None;
    }
    config::near(word, names.into_iter()).map(str::to_owned)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what a runner configuration means, and what is wrong or doubtful in it; change nothing, and contact nobody
    /// unless `--online` asks for it
    Check(check::Arguments),
    /// Show what the start-worker of this machine is doing
    Status(status::Arguments),
    /// Let the worker finish its tasks, then end; no worker is started on this host until `resume`, over restarts and boots
    Drain(drain::Arguments),
    /// Start no other worker on this host until `resume`, over restarts and boots; the present worker goes on
    Hold(hold::Arguments),
    /// Let a host that is held (by `drain` or `hold`) start workers again
    Resume(resume::Arguments),
    /// Log more, or less, for a while, without a restart
    LogLevel(log_level::Arguments),
    /// Show or set whom the display manager logs in at the next boot
    Autologin(autologin::Arguments),
}

impl Command {
    /// Runs the command. Returns its exit code.
    pub(crate) fn run(&self) -> u8 {
        match self {
            Self::Check(arguments) => check::run(arguments),
            Self::Status(arguments) => status::run(arguments),
            Self::Drain(arguments) => drain::run(arguments),
            Self::Hold(arguments) => hold::run(arguments),
            Self::Resume(arguments) => resume::run(arguments),
            Self::LogLevel(arguments) => log_level::run(arguments),
            Self::Autologin(arguments) => autologin::run(arguments),
        }
    }
}

/// Prints a text. A reader that closes the pipe (`| head`) is not an error.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => Err(cause),
        _ => Ok(()),
    }
}

/// Tells on stderr what is wrong.
fn tell(text: &str) {
    let mut stderr = io::stderr();
    let text = if colour::is_wanted(&stderr) { colour::diagnostics(text) } else { text.to_owned() };
    // Without a stderr there is nobody to tell.
    let _ = writeln!(stderr, "{text}");
}

/// The faults of a runner configuration that cannot be loaded, one a line.
pub(crate) fn load_error(error: &LoadError) -> String {
    match error {
        LoadError::Faults(faults) => {
            let lines: Vec<String> = faults.diagnostics.iter().map(config::Diagnostic::labelled).collect();
            lines.join("\n")
        }
        LoadError::File(_) => format!("error: {}", ErrorChain(error)),
    }
}
