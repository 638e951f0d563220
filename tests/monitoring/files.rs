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
