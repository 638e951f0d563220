//! `start-worker autologin`: used by operators, and by the unit that runs before the display manager.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use start_worker::autologin::Logins;
use start_worker::config;
use start_worker::error_chain::ErrorChain;
use start_worker::host::autologin::{AutologinError, Done, Shown};
use start_worker::host::helper::Helpers;
use start_worker::host::private_file::Access;

use super::{exit, print};

#[derive(Debug, clap::Args)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show whom the next boot logs in
    Show(Where),
    /// Let the next boot log this user in
    Set {
        /// An existing user, not root
        #[arg(value_name = "USER")]
        user: String,

        #[command(flatten)]
        place: Where,
    },
    /// Let the next boot log nobody in
    Clear(Where),
    /// Set the autologin.user of a runner configuration, where it has one
    Apply {
        /// The runner configuration (YAML or JSON)
        #[arg(value_name = "runnerConfig")]
        runner_config: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Where {
    /// A runner configuration, whose section `autologin` counts. Default: this host's display manager
    #[arg(long, value_name = "runnerConfig")]
    config: Option<PathBuf>,
}

/// Runs the command. Returns its exit code.
pub(crate) fn run(arguments: &Arguments) -> u8 {
    let config = match &arguments.what {
        What::Show(place) | What::Clear(place) | What::Set { place, .. } => place.config.as_deref(),
        What::Apply { runner_config } => Some(runner_config.as_path()),
    };
    // Commands that make changes apply the same checks to the file as a start.
    let access = if matches!(arguments.what, What::Show(_)) { Access::Observe } else { Access::Tighten };
    let logins = match logins(config, access) {
        Ok(logins) => logins,
        Err(code) => return code,
    };
    conclude(perform(&arguments.what, &logins))
}

fn logins(config: Option<&Path>, access: Access) -> Result<Logins, u8> {
    let Some(path) = config else { return Ok(Logins::new(&config::Autologin::default())) };
    match config::load(path, access) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                complain(&warning.labelled());
            }
            Ok(Logins::new(&loaded.config.autologin))
        }
        Err(cause) => {
            complain(&super::load_error(&cause));
            Err(exit::load_code(&cause))
        }
    }
}

/// Performs the command. Returns the text to print.
fn perform(what: &What, logins: &Logins) -> Result<String, AutologinError> {
    match what {
        What::Show(_) => Ok(shown(&logins.show()?)),
        What::Set { user, .. } => set(logins, user),
        What::Clear(_) => {
            let done = logins.clear()?;
            follow(logins, &done);
            Ok(said(&done, "the next boot logs nobody in"))
        }
        What::Apply { .. } => match logins.user() {
            Some(user) => set(logins, user.as_str()),
            None => {
                Ok("there is no autologin.user in the runner configuration: nothing is changed\n".to_owned())
            }
        },
    }
}

fn set(logins: &Logins, user: &str) -> Result<String, AutologinError> {
    let done = logins.set(user)?;
    follow(logins, &done);
    Ok(said(&done, &format!("the next boot logs {user} in")))
}

/// Prints warnings, and makes systemd reload its units.
fn follow(logins: &Logins, done: &Done) {
    for warning in &done.warnings {
        complain(&format!("warning: {warning}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let followed = runtime.map(|runtime| runtime.block_on(logins.follow_up(done, &Helpers::default())));
    let failed = match followed {
        Ok(Ok(())) => return,
        Ok(Err(cause)) => ErrorChain(&cause).to_string(),
        Err(cause) => cause.to_string(),
    };
    complain(&format!("warning: systemd has not read its units again, the next boot will: {failed}"));
}

fn said(done: &Done, effect: &str) -> String {
    let file = done.file.display();
    let changed = if done.changed { "changed" } else { "was so already" };
    format!("{effect} ({}): {file} {changed}\n", done.display_manager)
}

fn shown(shown: &Shown) -> String {
    for warning in &shown.warnings {
        complain(&format!("warning: {warning}"));
    }
    let user = shown.user.as_deref().unwrap_or("nobody");
    let mut text = String::new();
    for (name, value) in [
        ("display manager", shown.display_manager),
        ("file", &shown.file.to_string_lossy()),
        ("logs in", user),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<17}{value}");
    }
    text
}

fn conclude(result: Result<String, AutologinError>) -> u8 {
    let cause = match result {
        Err(cause) => ErrorChain(&cause).to_string(),
        Ok(text) => match print(&text) {
            Ok(()) => return exit::OK,
            Err(cause) => format!("cannot print the answer: {cause}"),
        },
    };
    complain(&format!("error: {cause}"));
    exit::FAILED
}

fn complain(text: &str) {
    super::tell(text);
}
