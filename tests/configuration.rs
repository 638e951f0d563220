//! Runner configurations from outside: what loads, what does not, and what is said about it.

use std::path::Path;

use start_worker::config::{self, Loaded};

fn fixture(name: &str) -> Loaded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/runner-configs").join(name);
    let text = std::fs::read(path).expect("a fixture");
    config::parse(Path::new(name), &text).expect("a configuration that loads")
}

/// Everything that is said about a configuration, a line each.
fn said(text: &str) -> String {
    let diagnostics = match config::parse(Path::new("r.yml"), text.as_bytes()) {
        Ok(loaded) => loaded.warnings,
        Err(faults) => faults.diagnostics,
    };
    diagnostics.iter().map(config::Diagnostic::labelled).collect::<Vec<_>>().join("\n")
}

#[test]
fn configurations_from_the_field_load_without_a_word() {
    for name in [
        "aws-generic-worker.yml",
        "aws-provisioner-docker-worker.yml",
        "azure-generic-worker.yml",
        "google-generic-worker.yml",
        "standalone-dummy.yml",
        "static-hardware.yml",
        "windows-azure.yml",
    ] {
        assert_eq!(fixture(name).warnings, [], "{name}");
    }
}

#[test]
fn an_unknown_key_from_the_field_is_a_warning() {
    let warnings = fixture("docker-compose-static.json").warnings;
    let lines: Vec<_> = warnings.iter().map(config::Diagnostic::labelled).collect();
    insta::assert_snapshot!(lines.join("\n"), @"warning: docker-compose-static.json:14: provider.workerNodeType: unknown key, ignored; remove it");
}

#[test]
fn five_faults_are_told_in_one_pass() {
    let text = "provider: {providerType: google}\nworker:\n  implementation: dummy\n  helloTimeout: 30\n  oomScoreAdj: 2000\nsupervision:\n  restart: sometimes\n  stopTimeout: soon\nstartTimeout: 0s\n";
    insta::assert_snapshot!(said(text), @r#"
    error: r.yml:4: worker.helloTimeout: expected a duration, found the integer 30; add a unit, as in 90s
    error: r.yml:5: worker.oomScoreAdj: expected an integer from -1000 to 1000, found the integer 2000
    error: r.yml:7: supervision.restart: expected one of never, on-failure, always, found "sometimes"
    error: r.yml:8: supervision.stopTimeout: expected a duration, found "soon"; write it as in 90s, 15m, 6h or 1h 30m
    error: r.yml:9: startTimeout: expected a duration of more than zero, found "0s"
    "#);
}
