//! Checks the documentation of the runner configuration against the code.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};

use test_support::secrets::Secrets;

use start_worker::config::{self, Diagnostic, KeyInfo};
use start_worker::host::private_file::Access;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    std::fs::read_to_string(path).expect("a document")
}

/// The code blocks in one language, each with the text that follows it.
fn blocks<'d>(document: &'d str, language: &str) -> Vec<(&'d str, &'d str)> {
    let fence = format!("```{language}\n");
    document.split(&fence).skip(1).filter_map(|rest| rest.split_once("```\n")).collect()
}

/// Completes a partial configuration. Missing parts are added at the end, so that line numbers stay the same.
fn completed(part: &str) -> String {
    let mut text = part.to_owned();
    for (section, small) in
        [("provider:", "provider: {providerType: aws}\n"), ("worker:", "worker: {implementation: dummy}\n")]
    {
        if !part.lines().any(|line| line.starts_with(section)) {
            text.push_str(small);
        }
    }
    text
}

fn said(text: &str) -> Vec<String> {
    let diagnostics = match config::parse(Path::new("/etc/start-worker.yml"), text.as_bytes()) {
        Ok(loaded) => loaded.warnings,
        Err(faults) => faults.diagnostics,
    };
    diagnostics.iter().map(Diagnostic::labelled).collect()
}

#[test]
fn every_key_is_documented_as_it_is_read() {
    let row = |key: KeyInfo| {
        format!("| `{}` | {} | {} | {} |", key.path, key.takes, key.default, key.only.join(", "))
            .replace("|  |", "| |")
    };
    let known: BTreeSet<String> = config::known_keys().into_iter().map(row).collect();
    let text = document("configuration.md");
    let documented: BTreeSet<String> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| {
            let (row, meaning) = line.strip_suffix(" |")?.rsplit_once(" | ")?;
            assert!(!meaning.is_empty(), "no meaning: {line}");
            Some(format!("{row} |").replace("|  |", "| |"))
        })
        .collect();
    let missing: Vec<_> = known.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&known).collect();
    assert!(missing.is_empty(), "not in docs/configuration.md: {missing:#?}");
    assert!(unknown.is_empty(), "in docs/configuration.md, but not so in the code: {unknown:#?}");
}

#[test]
fn every_example_loads_without_a_word() {
    let text = document("configuration.md");
    let examples = blocks(&text, "yaml");
    assert!(examples.len() > 10);
    for (example, _) in examples {
        assert_eq!(said(&completed(example)), [""; 0], "{example}");
    }
}

#[test]
fn every_quoted_message_is_what_the_example_above_it_gives() {
    let text = document("troubleshooting.md");
    let section =
        text.split("\n## ").find(|section| section.starts_with("Configuration")).expect("the section");
    let examples = blocks(section, "yaml");
    assert!(examples.len() > 10);
    for (example, rest) in examples {
        let quoted = blocks(rest.split("### ").next().unwrap_or_default(), "text");
        let (message, words) = quoted.first().expect("a message");
        assert_eq!(said(&completed(example)), message.lines().collect::<Vec<_>>(), "{example}");
        assert!(words.trim().len() > 20, "what to change: {message}");
    }
}

/// Runs start-worker on a file in a folder of its own.
fn run(arguments: &[&str], text: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("start-worker.yml");
    std::fs::write(&path, text).expect("a file");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its mode");
    let output = Command::new(env!("CARGO_BIN_EXE_start-worker"))
        .args(arguments)
        .arg("start-worker.yml")
        .current_dir(folder.path())
        .env_remove("STATE_DIRECTORY")
        .env_remove("START_WORKER_LOG")
        .env("RUNTIME_DIRECTORY", folder.path())
        .output()
        .expect("a run");
    let secrets = Secrets::of_folder(folder.path());
    secrets.assert_kept(&output.stdout);
    secrets.assert_kept(&output.stderr);
    output
}

#[test]
fn check_prints_every_quoted_message_and_ends_with_64_after_an_error() {
    let text = document("troubleshooting.md");
    let section = text.split("\n## ").find(|section| section.starts_with("Configuration")).expect("it");
    for (example, rest) in blocks(section, "yaml") {
        let (message, _) = blocks(rest, "text").remove(0);
        let output = run(&["check"], &completed(example));
        let message = message.replace("/etc/", "");
        assert_eq!(String::from_utf8_lossy(&output.stderr), message, "{example}");
        let code = if message.contains("error: ") { 64 } else { 0 };
        assert_eq!(output.status.code(), Some(code), "{example}");
    }
}

#[test]
fn every_quoted_message_of_a_start_is_what_the_example_above_it_gives() {
    const PROVIDER: &str = "provider: {providerType: standalone, rootURL: 'https://tc.example.com', clientID: c, \
        accessToken: hush, workerPoolID: a/b, workerGroup: g, workerID: w}\ngetSecrets: false\n";
    let text = document("troubleshooting.md");
    let section = text.split("\n## ").find(|section| section.starts_with("Messages of a start")).expect("it");
    let examples = blocks(section, "yaml");
    assert!(examples.len() > 3);
    for (example, rest) in examples {
        let (message, _) = blocks(rest, "text").remove(0);
        let output = run(&[], &format!("{example}{PROVIDER}"));
        let log = String::from_utf8_lossy(&output.stderr);
        let said: Vec<_> =
            log.lines().filter_map(|line| line.find("ERROR ").and_then(|start| line.get(start..))).collect();
        assert_eq!(said, message.lines().collect::<Vec<_>>(), "{log}");
        let code = output.status.code().expect("a code");
        assert!(message.ends_with(&format!("exit_code={code}\n")), "{code}: {message}");
    }
}

#[test]
fn every_quoted_message_about_the_file_is_what_such_a_file_gives() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, mode: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, completed("")).expect("a file");
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
        path
    };
    let loaded = config::load(&file("loose", 0o644), Access::Tighten).expect("a configuration");
    let mut said: Vec<String> = loaded.warnings.into_iter().map(|warning| warning.message).collect();
    std::os::unix::fs::symlink(folder.path().join("loose"), folder.path().join("link")).expect("a link");
    let error = config::load(&folder.path().join("link"), Access::Tighten).expect_err("a link");
    said.push(error.to_string());
    let others = file("others", 0o644);
    // Only root can give a file away; others see two messages of three.
    if chown(&others, Some(12_345), None).is_ok() {
        said.push(config::load(&others, Access::Tighten).expect_err("not ours").to_string());
    }

    let text = document("troubleshooting.md");
    let section =
        text.split("\n### ").find(|section| section.starts_with("The file's permissions")).expect("it");
    let section = section.split("\n## ").next().unwrap_or_default();
    let quoted: Vec<_> = section.lines().filter_map(|line| line.strip_prefix("> ")).collect();
    assert_eq!(quoted.len(), 3);
    for message in said {
        // The documents say FILE for the file's path.
        let message = ["loose", "link", "others"].iter().fold(message, |message, name| {
            message.replace(folder.path().join(name).to_str().expect("a path"), "FILE")
        });
        assert!(quoted.iter().any(|quoted| message.ends_with(quoted)), "not quoted: {message}");
    }
}
