//! Writes what the package has beside the program: manual pages and completions for shells.
//!
//! `cargo run --example documents -- FOLDER`. Nothing of it is committed, so nothing of it can be out of date: the
//! commands come from the program's own command line, the configuration's page and the sections about signals and exit
//! codes from docs/. It is an example, not a command of the program, for none of this is worth a byte on a worker.

mod changelog;
mod manual;

#[path = "../../src/cli/mod.rs"]
#[expect(dead_code, reason = "it is asked for its arguments only")]
mod cli;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::Shell;

/// Sections of docs/operations.md that whoever reads about the program wants at hand.
const OF_OPERATIONS: [&str; 3] = ["Signals", "The status socket", "Exit codes"];

/// The completion's place below `usr/share`, where its shell looks for it.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/start-worker"),
    (Shell::Zsh, "zsh/vendor-completions/_start-worker"),
    (Shell::Fish, "fish/vendor_completions.d/start-worker.fish"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("documents: give the folder to write to")?;
    let folder = PathBuf::from(folder);
    manual_pages(&folder.join("man"))?;
    for (shell, path) in COMPLETIONS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command(), "start-worker", &mut text);
        if shell == Shell::Bash {
            // clap_complete takes the hyphen in the program's name for the border to a subcommand, in some places.
            text = String::from_utf8(text)?.replace("start__subcmd__worker", "start__worker").into_bytes();
        }
        if shell == Shell::Fish {
            // It asks for `help` and for no `help` at once, so nothing was offered behind `help`.
            text = String::from_utf8(text)?.replace(" autologin help\" -f", " autologin\" -f").into_bytes();
        }
        if shell == Shell::Zsh {
            text = first_argument_of_zsh(&String::from_utf8(text)?)?.into_bytes();
        }
        write(&folder.join(path), &text)?;
    }
    let changes = Path::new(env!("CARGO_MANIFEST_DIR")).join("CHANGELOG.md");
    let date = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => jiff::Timestamp::from_second(seconds.parse()?)?,
        Err(_) => jiff::Timestamp::now(),
    };
    let text = changelog::debian(&fs::read_to_string(changes)?, env!("CARGO_PKG_VERSION"), date);
    write(&folder.join("changelog"), text.as_bytes())
}

/// Completes commands and files as the first argument: `clap_complete` has a runner configuration there and commands only after
/// it, as if both could be given.
fn first_argument_of_zsh(text: &str) -> Result<String, String> {
    let (before, rest) = text.split_once("'::runner_config -- ").ok_or("zsh: no first argument")?;
    let (_, rest) = rest.split_once('\n').ok_or("zsh: nothing behind the first argument")?;
    let rest = rest
        .strip_prefix("\":: :_start-worker_commands\" \\\n")
        .ok_or("zsh: no commands behind the first argument")?
        .replace("$line[2]", "$line[1]");
    let first = "'1: :_start-worker_first' \\\n";
    let function = "\n_start-worker_first() {\n    _alternative 'commands:command:_start-worker_commands' \\\n        \
        'files:runner configuration:_files'\n}\n";
    let (head, body) = before.split_once("\n_start-worker() {").ok_or("zsh: no function")?;
    Ok(format!("{head}{function}\n_start-worker() {{{body}{first}{rest}"))
}

/// The program's command line.
fn command() -> Command {
    cli::Arguments::command()
}

fn manual_pages(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut commands = command();
    commands.build();
    let operations = document("operations.md")?;
    let mut own = page(&commands)?;
    for heading in OF_OPERATIONS {
        let section = manual::section(&operations, heading)
            .ok_or_else(|| format!("docs/operations.md has no section `{heading}`"))?;
        own.push_str(&manual::from_markdown(section));
    }
    own.push_str(&see_also(&commands));
    write(&folder.join("start-worker.1"), own.as_bytes())?;
    for one in commands.get_subcommands() {
        let mut text = page(one)?;
        text.push_str(".SH \"SEE ALSO\"\n.BR start\\-worker (1)\n");
        write(&folder.join(file_name(one)), text.as_bytes())?;
    }
    let title = manual::title("start-worker.yml", 5, env!("CARGO_PKG_VERSION"));
    let configuration = manual::from_markdown(&document("configuration.md")?);
    let text = format!("{title}{configuration}.SH \"SEE ALSO\"\n.BR start\\-worker (1)\n");
    write(&folder.join("start-worker.yml.5"), text.as_bytes())
}

/// What clap knows about a command.
fn page(command: &Command) -> Result<String, Box<dyn Error>> {
    let mut text = Vec::new();
    let source = concat!("start-worker ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command.clone()).source(source).render(&mut text)?;
    Ok(String::from_utf8(text)?)
}

fn file_name(command: &Command) -> String {
    format!("{}.1", command.get_display_name().unwrap_or_else(|| command.get_name()))
}

fn see_also(commands: &Command) -> String {
    let pages = commands.get_subcommands().map(|one| {
        let name = file_name(one).trim_end_matches(".1").replace('-', "\\-");
        format!(".BR {name} (1)")
    });
    let pages: Vec<String> = std::iter::once(".BR start\\-worker.yml (5)".to_owned()).chain(pages).collect();
    format!(".SH \"SEE ALSO\"\n{}\n.PP\n/usr/share/doc/start\\-worker/\n", pages.join(",\n"))
}

fn document(name: &str) -> Result<String, Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    Ok(fs::read_to_string(&path).map_err(|cause| format!("cannot read {}: {cause}", path.display()))?)
}

fn write(path: &Path, text: &[u8]) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(fs::write(path, text).map_err(|cause| format!("cannot write {}: {cause}", path.display()))?)
}
