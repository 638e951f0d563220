//! The manual pages and the completions, as they are made from the sources.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use start_worker::config;

use crate::build::{must, skip};

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// The sub-commands, as the program's own help has them.
fn sub_commands() -> Vec<String> {
    let help = must(Command::new(env!("CARGO_BIN_EXE_start-worker")).arg("--help")).stdout;
    let help = String::from_utf8(help).unwrap();
    let (_, rest) = help.split_once("Commands:\n").unwrap();
    let lines = rest.lines().take_while(|line| !line.is_empty());
    lines
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split(' ').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_has_a_page_and_is_completed_in_every_shell() {
    let Some(built) = crate::built() else { return };
    let commands = sub_commands();
    assert!(commands.len() >= 4, "{commands:?}");
    let documents = &built.documents;
    let completions = [
        "bash-completion/completions/start-worker",
        "zsh/vendor-completions/_start-worker",
        "fish/vendor_completions.d/start-worker.fish",
    ];
    let overview = read(&documents.join("man/start-worker.1"));
    for command in &commands {
        let page = read(&documents.join(format!("man/start-worker-{command}.1")));
        assert!(page.contains(".SH NAME\nstart\\-worker\\-"), "{page}");
        assert!(overview.contains(&format!(".BR start\\-worker\\-{command} (1)")), "{command}");
        for path in completions {
            assert!(read(&documents.join(path)).contains(command.as_str()), "{path}: {command}");
        }
    }
    for section in [".SH \"SIGNALS\"", ".SH \"EXIT CODES\""] {
        assert!(overview.contains(section), "{section}");
    }
}

#[test]
fn every_key_of_the_runner_configuration_is_in_its_page() {
    let Some(built) = crate::built() else { return };
    let page = read(&built.documents.join("man/start-worker.yml.5"));
    let known: BTreeSet<String> = config::known_keys().into_iter().map(|key| key.path).collect();
    assert!(known.len() > 40, "{known:?}");
    for key in known {
        assert!(page.contains(&format!(".TP\n\\fB{key}\\fR\n")), "{key}");
    }
}

#[test]
fn groff_has_nothing_to_say_about_the_pages() {
    let Some(built) = crate::built() else { return };
    if Command::new("groff").arg("--version").output().is_err() {
        skip("there is no groff (package groff-base)");
        return;
    }
    for entry in std::fs::read_dir(built.documents.join("man")).unwrap() {
        let path = entry.unwrap().path();
        let output = must(Command::new("groff").args(["-man", "-Tutf8", "-Kutf8", "-ww"]).arg(&path));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", path.display());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // What the conversion has left as it was.
        for mark in ["**", "](", "```", "| ---"] {
            assert!(!text.contains(mark), "{}: {mark}", path.display());
        }
    }
}
