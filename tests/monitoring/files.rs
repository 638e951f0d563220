//! Checks every file that names a metric (documents, rules, dashboard) against the metrics that the program exports.

use std::collections::BTreeSet;
use std::path::Path;

use start_worker::telemetry::metrics::{METRICS, Metric};

use crate::monitoring::export::get;
use crate::monitoring::prometheus::crash_loop;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The words of a text that begin like a metric.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("start_worker_")).map(str::to_owned).collect()
}

fn exists(name: &str) -> bool {
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    METRICS.iter().any(|metric| metric.name == name || metric.name == base)
}

#[test]
fn rules_and_dashboard_name_only_what_is_exported() {
    for file in ["config-examples/monitoring/alerts.yml", "config-examples/monitoring/dashboard.json"] {
        let names = named(&read(file));
        assert!(names.len() > 5, "{file} names {names:?}");
        let unknown: Vec<_> = names.iter().filter(|name| !exists(name)).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
}

/// Files that an operator copies, or that the package installs.
const SHIPPED: [&str; 3] = ["config-examples", "systemd", "packaging"];

fn shipped(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { shipped(&path, files) } else { files.push(path) }
    }
}

#[test]
fn keys_of_the_runner_configuration_that_shipped_files_name_exist() {
    let known: BTreeSet<String> =
        start_worker::config::known_keys().into_iter().map(|key| key.path).collect();
    let sections: BTreeSet<&str> = known.iter().filter_map(|key| Some(key.split_once('.')?.0)).collect();
    let mut files = Vec::new();
    for folder in SHIPPED {
        shipped(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
    }
    let (mut named, mut unknown) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let words = text
            .split(|letter: char| !letter.is_ascii_alphanumeric() && !['.', '_', '-', '/'].contains(&letter));
        for word in words.map(|word| word.trim_end_matches('.')) {
            let Some((section, key)) = word.split_once('.') else { continue };
            // `worker.service` and `worker.json` are names of files.
            let is_key = key.contains(char::is_uppercase) || known.contains(word);
            if sections.contains(section) && is_key {
                named += 1;
                if !known.contains(word) {
                    unknown.push(format!("{}: {word}", file.display()));
                }
            }
        }
    }
    assert!(named > 5, "{named}: keys are not found any more");
    assert!(unknown.is_empty(), "no such keys: {unknown:#?}");
}

#[test]
fn the_dashboard_is_json_whose_panels_all_ask_for_something() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("config-examples/monitoring/dashboard.json")).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        let query = panel["targets"][0]["expr"].as_str().unwrap_or_default();
        assert!(query.contains("start_worker_") || query.contains("up{"), "{panel}");
    }
}

#[test]
fn every_metric_is_documented_as_it_is() {
    let row = |metric: &Metric| {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {} |", metric.name, metric.kind.name(), labels.join(", "), metric.help)
            .replace("|  |", "| |")
    };
    let expected: Vec<String> = METRICS.iter().map(row).collect();
    let text = read("docs/monitoring.md");
    let found: Vec<&str> = text.lines().filter(|line| line.starts_with("| `start_worker_")).collect();
    assert_eq!(found, expected, "the table should be:\n{}", expected.join("\n"));
}

#[test]
fn what_is_exported_is_what_is_declared() {
    let (_, text) = get(&crash_loop(), "/metrics");
    let mut last = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            let metric = METRICS.iter().find(|metric| metric.name == name);
            assert_eq!(metric.map(|metric| metric.help), Some(help), "{name}");
            last = name.to_owned();
        } else if !line.starts_with('#') {
            assert!(line.starts_with(&last), "{line}");
        }
    }
}
