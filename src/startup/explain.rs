//! `start-worker check`: explains a runner configuration without starting or contacting anything.

use std::fmt::Write;

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::config::{self, Diagnostic, Implementation, ProviderConfig, RunnerConfig};
use crate::error_chain::ErrorChain;
use crate::redact::Secrets;
use crate::run_spec::Run;
use crate::run_spec::worker_config::{Merged, Source};
use crate::startup::{self, Offline};
use crate::worker;

/// The findings of `check`.
#[derive(Debug)]
pub struct Report {
    /// The runner configuration in effect, masked unless secrets are to be shown.
    runner: Value,
    /// The worker configuration as far as it is known offline, masked unless secrets are to be shown.
    worker: Merged,
    /// The parts that a start adds, one sentence each.
    added: Vec<String>,
    /// The keys that are not written for the worker.
    left_out: Vec<&'static str>,
    /// The reason why this host cannot start it, if it is known.
    refused: Option<String>,
    /// Problems that will soon keep this host from working.
    warning: Option<String>,
    /// Secrets, which are masked wherever they are repeated.
    secrets: Secrets,
}

impl Report {
    /// Examines a valid configuration.
    pub fn new(config: &RunnerConfig, show_secrets: bool) -> Self {
        let Offline { run, known, from_cache, trouble: refused, warning } = startup::offline(config);
        let (final_config, refused) = match worker::final_config(&run, &config.worker) {
            Ok(merged) => (Some(merged), refused),
            // A start would fail for this reason first.
            Err(cause) => (None, Some(ErrorChain(&cause).to_string())),
        };
        let offline = final_config.as_ref().filter(|_| known).unwrap_or(&run.worker_config);
        let mut secrets = config::effective::secrets(&config.provider);
        if from_cache {
            secrets.extend(cached_secrets(&run));
        }
        let hidden = Secrets::default();
        if !show_secrets {
            for name in config::effective::public_names(config) {
                hidden.allow(&name);
            }
            let by_key = config::effective::secrets_by_key(config);
            for secret in by_key.iter().map(String::as_str).chain(secrets.iter().copied()) {
                hidden.add_configured(secret);
            }
        }
        let mut runner = config::effective::effective(config, show_secrets);
        hidden.mask_strings(&mut runner);
        Self {
            runner,
            worker: if show_secrets { offline.clone() } else { offline.masked(&secrets) },
            added: added(config, final_config.as_ref().filter(|_| !known), from_cache),
            left_out: worker::left_out(offline, &config.worker),
            refused: refused.map(|refused| hidden.mask(refused)),
            warning: warning.map(|warning| hidden.mask(warning)),
            secrets: hidden,
        }
    }

    /// The secrets to mask in other findings.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Formats the report for people: YAML, with comments for the source of each value of the worker configuration.
    pub fn text(&self) -> String {
        let mut text = format!("# runner configuration in effect\n{}", config::to_yaml(&self.runner));
        text.push_str(
            "\n# worker configuration as far as it is known offline, and the source of each value\n",
        );
        let lines: Vec<(String, String)> = self
            .worker
            .leaves()
            .map(|leaf| {
                (self.secrets.mask(format!("{}: {}", leaf.path, leaf.value)), leaf.source.to_string())
            })
            .collect();
        let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or_default().min(WIDEST);
        for (line, source) in lines {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{line:width$}  # {source}");
        }
        for added in &self.added {
            let _ = writeln!(text, "# added at start: {added}");
        }
        for key in &self.left_out {
            let _ = writeln!(text, "# for start-worker, not in the worker's file: {key}");
        }
        if let Some(warning) = &self.warning {
            let _ = writeln!(text, "\n# this host can start it, but: {warning}");
        }
        text
    }

    /// The verdict in one line. `online`: the verdict of the probe, if it was requested.
    pub fn verdict(&self, diagnostics: &[Diagnostic], online: Option<&str>) -> String {
        let mut verdict = counted(diagnostics);
        if let Some(refused) = &self.refused {
            let _ = write!(verdict, ", but this host cannot start it: {refused}");
        } else if let Some(online) = online {
            let _ = write!(verdict, "; {online}");
        }
        verdict
    }

    /// Formats the report for programs. `online`: the findings of the probe, if it was requested.
    pub fn json(&self, diagnostics: &[Diagnostic], online: Option<(Value, &str)>) -> String {
        let leaves: Vec<Value> = self
            .worker
            .leaves()
            .map(|leaf| json!({"path": self.secrets.mask(leaf.path), "value": leaf.value, "source": leaf.source.to_string()}))
            .collect();
        let mut report = json!({
            "runnerConfiguration": self.runner,
            "workerConfiguration": leaves,
            "addedAtStart": self.added,
            "notWritten": self.left_out,
            "cannotStart": self.refused,
            "diagnostics": diagnostics.iter().map(diagnostic).collect::<Vec<_>>(),
            "verdict": self.verdict(diagnostics, online.as_ref().map(|(_, verdict)| *verdict)),
        });
        if let Some(warning) = &self.warning {
            report["warning"] = json!(warning);
        }
        if let Some((online, _)) = online {
            report["online"] = online;
        }
        format!("{report:#}\n")
    }
}

/// A wider value does not move the column of sources.
const WIDEST: usize = 60;

/// Formats the diagnostics of a configuration that does not load, for programs.
pub fn faults_json(diagnostics: &[Diagnostic]) -> String {
    let shown: Vec<Value> = diagnostics.iter().map(diagnostic).collect();
    format!("{:#}\n", json!({"diagnostics": shown, "verdict": counted(diagnostics)}))
}

/// States whether a configuration is valid, with the number of its errors and warnings.
pub fn counted(diagnostics: &[Diagnostic]) -> String {
    let number = |count: usize, word| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.level == config::Level::Error).count();
    match (errors, diagnostics.len() - errors) {
        (0, 0) => "valid".to_owned(),
        (0, warnings) => format!("valid, with {}", number(warnings, "warning")),
        (errors, 0) => format!("not valid: {}", number(errors, "error")),
        (errors, warnings) => {
            format!("not valid: {} and {}", number(errors, "error"), number(warnings, "warning"))
        }
    }
}

fn diagnostic(diagnostic: &Diagnostic) -> Value {
    json!({
        "level": match diagnostic.level {
            config::Level::Error => "error",
            config::Level::UnknownKey | config::Level::Warning => "warning",
        },
        // A file name need not be UTF-8.
        "file": diagnostic.file.display().to_string(),
        "line": diagnostic.line,
        "path": diagnostic.path,
        "message": diagnostic.message,
    })
}

/// The parts of the worker configuration that a start adds, in the order of merging. `with_placeholders`: the
/// configuration that the implementation would make for a worker of which only the pool is known.
fn added(config: &RunnerConfig, with_placeholders: Option<&Merged>, from_cache: bool) -> Vec<String> {
    let mut added = Vec::new();
    if from_cache {
        added.push(match config.provider {
            ProviderConfig::Static(_) => {
                "nothing, if Taskcluster cannot be reached; else the worker registers anew".to_owned()
            }
            _ => "nothing: the worker starts with the cached run".to_owned(),
        });
        return added;
    }
    match &config.provider {
        ProviderConfig::Standalone(_) => {}
        ProviderConfig::AwsProvisioner(_) => added.push("data of the user-data (provider)".to_owned()),
        ProviderConfig::Static(_)
        | ProviderConfig::Aws(_)
        | ProviderConfig::Azure(_)
        | ProviderConfig::Google(_) => {
            added.push("workerConfig and files that registerWorker returns (provider)".to_owned());
        }
    }
    if config.get_secrets {
        added.push(
            "the secrets worker-type:<pool> and worker-pool:<pool>, where they exist (getSecrets)".to_owned(),
        );
    }
    let leaves = with_placeholders.map(|merged| {
        let ours = merged.leaves().filter(|leaf| *leaf.source == Source::Implementation);
        ours.map(|leaf| leaf.path).collect::<Vec<_>>()
    });
    if let Some(leaves) = leaves.filter(|leaves| !leaves.is_empty()) {
        let name = config.worker.implementation.name();
        added.push(format!("what start-worker sets for {name}: {}", leaves.join(", ")));
    }
    if let Implementation::Command { config_path: None, .. } = config.worker.implementation {
        added.push("nothing is written: worker.configPath is not given".to_owned());
    }
    added
}

/// The secrets of a cached run, which are masked everywhere.
fn cached_secrets(run: &Run) -> Vec<&str> {
    let credentials = &run.credentials;
    let secrets =
        [Some(&credentials.access_token), credentials.certificate.as_ref(), run.registration_secret.as_ref()];
    let texts = secrets.into_iter().flatten().map(ExposeSecret::expose_secret);
    texts.filter(|text| !text.is_empty()).collect()
}
