//! The manual pages and the completions, as they are made from the sources.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use start_worker::config;

use crate::package::build::{must, skip};

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
fn every_command_has_a_page() {
    let Some(built) = crate::package::built() else { return };
    let commands = sub_commands();
    assert!(commands.len() >= 4, "{commands:?}");
    let documents = &built.documents;
    let overview = read(&documents.join("man/start-worker.1"));
    for command in &commands {
        let page = read(&documents.join(format!("man/start-worker-{command}.1")));
        assert!(page.contains(".SH NAME\nstart\\-worker\\-"), "{page}");
        assert!(
            overview.contains(&format!(".BR start\\-worker\\-{} (1)", command.replace('-', "\\-"))),
            "{command}"
        );
    }
    for section in [".SH \"SIGNALS\"", ".SH \"EXIT CODES\""] {
        assert!(overview.contains(section), "{section}");
    }
}

/// Typed lines, each with one of the shell's completions.
const TYPED: [(&str, &str); 9] = [
    ("start-worker st", "status"),
    ("start-worker --log", "--log-level"),
    ("start-worker status --j", "--json"),
    ("start-worker drain --w", "--wait"),
    ("start-worker check --on", "--online"),
    ("start-worker autologin s", "show"),
    ("start-worker autologin set --con", "--config"),
    ("start-worker ", "drain"),
    ("start-worker help re", "resume"),
];

/// Runs a script in a shell, where there is that shell.
fn in_shell(shell: &str, script: &str) -> Option<String> {
    if Command::new(shell).args(["-c", "exit 0"]).output().is_err() {
        skip(&format!("there is no {shell}"));
        return None;
    }
    // A shell that waits for its completion waits no longer than that.
    let output = must(Command::new("timeout").args(["60", shell, "-c", script]));
    Some(String::from_utf8(output.stdout).unwrap())
}

fn assert_offers(shell: &str, offers: impl Fn(&str, &Path) -> String, path: &str) {
    let Some(built) = crate::package::built() else { return };
    for (typed, expected) in TYPED {
        let Some(offered) = in_shell(shell, &offers(typed, &built.documents.join(path))) else { return };
        let has = offered.lines().any(|line| {
            line.split_whitespace().next().map(|word| word.trim_end_matches('=')) == Some(expected)
        });
        assert!(has, "{shell}: {typed}: {offered}");
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let offers = |typed: &str, file: &Path| {
        let words: Vec<&str> = typed.split(' ').collect();
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        let file = file.display();
        format!(
            "source '{file}'; COMP_WORDS=({typed}); COMP_CWORD={}; _start__worker start-worker '{last}' '{before}'; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.len() - 1
        )
    };
    assert_offers("bash", offers, "bash-completion/completions/start-worker");
}

#[test]
fn fish_completes_commands_and_options() {
    let offers = |typed: &str, file: &Path| format!("source '{}'; complete -C '{typed}'", file.display());
    assert_offers("fish", offers, "fish/vendor_completions.d/start-worker.fish");
}

/// A zsh with a terminal, whose completion is recorded as it is added.
const ZSH: &str = r#"
    cat >"$FOLDER/.zshrc" <<'END'
PS1=
fpath=("$FUNCTIONS" $fpath)
autoload -Uz compinit
compinit -u -d "$FOLDER/dump"
bindkey '^I' complete-word
compadd() {
    if [[ " ${*[1,(i)(-|--)]} " == *" -"[OAD]* ]]; then
        builtin compadd "$@"
        return
    fi
    local -a hits
    builtin compadd -A hits "$@"
    print -rl -- $hits >>"$FOLDER/offered"
    builtin compadd "$@"
}
comppostfuncs=(completed)
completed() { : >"$FOLDER/completed" }
: >"$FOLDER/ready"
END
    zmodload zsh/zpty
    cd "$FOLDER"
    zpty shell "ZDOTDIR=$FOLDER TERM=dumb zsh -o NO_GLOBAL_RCS -i"
    until [[ -e ready ]]; do zpty -r -t shell said; zselect -t 5; done
    zpty -w -n shell "$TYPED"$'\t'
    until [[ -e completed ]]; do zpty -r -t shell said; zselect -t 5; done
    cat offered
    zpty -d shell
    cd /
    rm -rf "$FOLDER"
"#;

#[test]
fn zsh_completes_commands_and_options() {
    let offers = |typed: &str, file: &Path| {
        let folder = tempfile::tempdir().unwrap().keep();
        let functions = file.parent().unwrap().display();
        format!(
            "zmodload zsh/zselect; export FOLDER='{0}' FUNCTIONS='{functions}' TYPED='{typed}'\n{ZSH}",
            folder.display()
        )
    };
    assert_offers("zsh", offers, "zsh/vendor-completions/_start-worker");
}

#[test]
fn every_key_of_the_runner_configuration_is_in_its_page() {
    let Some(built) = crate::package::built() else { return };
    let page = read(&built.documents.join("man/start-worker.yml.5"));
    let known: BTreeSet<String> = config::known_keys().into_iter().map(|key| key.path).collect();
    assert!(known.len() > 40, "{known:?}");
    for key in known {
        assert!(page.contains(&format!(".TP\n\\fB{key}\\fR\n")), "{key}");
    }
}

#[test]
fn groff_has_nothing_to_say_about_the_pages() {
    let Some(built) = crate::package::built() else { return };
    if Command::new("groff").arg("--version").output().is_err() {
        skip("there is no groff (package groff-base)");
        return;
    }
    for entry in std::fs::read_dir(built.documents.join("man")).unwrap() {
        let path = entry.unwrap().path();
        let output = must(Command::new("groff").args(["-man", "-Tutf8", "-Kutf8", "-ww"]).arg(&path));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", path.display());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Markup that the conversion has left unchanged.
        for mark in ["**", "](", "```", "| ---"] {
            assert!(!text.contains(mark), "{}: {mark}", path.display());
        }
    }
}
