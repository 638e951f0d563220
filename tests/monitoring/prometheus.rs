//! A real Prometheus scrapes a runner; promtool checks the exported metrics and the shipped rules.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{Scene, eventually};
use crate::monitoring::export::{address, exchange, get, measured, samples};

/// The tests are skipped where the program is not installed, except in CI.
pub(crate) fn is_there(program: &str) -> bool {
    let found =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let must = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(found || !must, "no {program}: install the Debian package prometheus");
    if !found {
        std::io::stderr().write_all(b"skipped: no prometheus (the Debian package)\n").unwrap();
    }
    found
}

fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

pub(crate) fn crash_loop() -> crate::harness::Runner {
    let runner = measured(Scene::new()).worker(["hello all", "start 3: wait", "exit 7"]).start();
    runner.wait_for_start(3);
    runner
}

#[test]
fn promtool_finds_nothing_to_complain_of_in_the_metrics() {
    if !is_there("promtool") {
        return;
    }
    let runner = crash_loop();
    let (_, text) = get(&runner, "/metrics");
    let (fine, said) = promtool(&["check", "metrics"], &text);
    assert!(fine && said.is_empty(), "{said}\n{text}");
}

#[test]
fn promtool_finds_nothing_to_complain_of_in_the_rules() {
    if !is_there("promtool") {
        return;
    }
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("config-examples/monitoring/alerts.yml");
    let (fine, said) = promtool(&["check", "rules", rules.to_str().unwrap()], "");
    assert!(fine && said.contains("SUCCESS"), "{said}");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/monitoring/alerts.test.yml");
    let (fine, said) = promtool(&["test", "rules", tests.to_str().unwrap()], "");
    assert!(fine && said.contains("SUCCESS"), "{said}");
}

/// A Prometheus with a folder of its own. Dropping it ends it.
pub(crate) struct Prometheus {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    pub(crate) fn scrape(targets: &[std::net::SocketAddr]) -> Self {
        let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        let targets = targets.join(", ");
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: start-worker, static_configs: [{{targets: [{targets}]}}]}}]\n"
        );
        std::fs::write(&config, text).unwrap();
        // Another process may take the port meanwhile; then this Prometheus ends, and the test reports it.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, port, _folder: folder }
    }

    /// The value of an instant query, once there is one.
    fn value(&self, query: &str) -> f64 {
        let found = eventually(|| self.first(query)?.parse().ok());
        found.unwrap_or_else(|| panic!("Prometheus has no {query}"))
    }

    /// The first value of an instant query now.
    pub(crate) fn first(&self, query: &str) -> Option<String> {
        self.results(query).first().and_then(|result| Some(result["value"][1].as_str()?.to_owned()))
    }

    /// The instances that an instant query finds now.
    pub(crate) fn instances(&self, query: &str) -> BTreeSet<String> {
        let instance = |result: &Value| Some(result["metric"]["instance"].as_str()?.to_owned());
        self.results(query).iter().filter_map(instance).collect()
    }

    /// None also while it starts.
    fn results(&self, query: &str) -> Vec<Value> {
        let encoded: Vec<String> = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let encoded = encoded.concat();
        let request = format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\nHost: x\r\n\r\n");
        if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            return Vec::new();
        }
        let answer = exchange(([127, 0, 0, 1], self.port).into(), &request);
        let body =
            answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str::<Value>(body).ok());
        body.and_then(|body| body["data"]["result"].as_array().cloned()).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[test]
fn a_real_prometheus_scrapes_what_the_runner_has_counted() {
    if !is_there("prometheus") {
        return;
    }
    let runner = crash_loop();
    let settled = |samples: &std::collections::BTreeMap<String, f64>| {
        samples["start_worker_worker_crashes"] == 2.0
            && samples["start_worker_worker_output_lines_total"] == 3.0
    };
    let expected =
        eventually(|| Some(samples(&runner)).filter(settled)).expect("two crashes and three hellos");
    let prometheus = Prometheus::scrape(&[address(&runner)]);
    assert_eq!(prometheus.value("up"), 1.0);
    for name in [
        "start_worker_worker_exits_total{meaning=\"crash\"}",
        "start_worker_worker_restarts_total",
        "start_worker_healthy",
        "start_worker_state{state=\"running\"}",
        "start_worker_worker_output_lines_total",
    ] {
        assert_eq!(prometheus.value(name), expected[name], "{name}");
    }
}
