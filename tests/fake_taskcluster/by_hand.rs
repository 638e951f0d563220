//! `cargo run --example fake-taskcluster`, and the runner configuration that goes with it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use test_support::raw_http::{Answer, DEADLINE, Request};

/// The example as a process; killed with its owner.
struct ByHand {
    process: Child,
    lines: Receiver<String>,
    address: SocketAddr,
    greeting: String,
}

impl Drop for ByHand {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl ByHand {
    fn start() -> Self {
        let folder = Path::new(env!("CARGO_BIN_EXE_start-worker")).parent().unwrap();
        let path = folder.join("examples/fake-taskcluster");
        assert!(path.exists(), "no {}: `cargo test` builds it", path.display());
        let mut process = Command::new(path)
            .args(["--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        // Ends with the process.
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let next = || lines.recv_timeout(DEADLINE).unwrap();
        let greeting: Vec<String> =
            std::iter::repeat_with(next).take_while(|line| !line.starts_with("more:")).collect();
        let address =
            greeting[0].split("http://").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        Self { process, lines, address, greeting: greeting.join("\n") }
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        Request::new("POST", path).json(body).send(self.address).unwrap()
    }

    fn register(&self) -> Answer {
        let body = json!({
            "workerPoolId": "demo/linux", "providerId": "static", "workerGroup": "here", "workerId": "demo-worker",
            "workerIdentityProof": {"staticSecret": static_demo()["provider"]["staticSecret"]},
        });
        self.post("/api/worker-manager/v1/worker/register", &body)
    }

    /// The next line that starts so.
    fn line(&self, start: &str) -> String {
        let next = || self.lines.recv_timeout(DEADLINE).unwrap();
        std::iter::repeat_with(next).find(|line| line.starts_with(start)).unwrap()
    }
}

/// The runner configuration that it is for.
fn static_demo() -> Value {
    let text = include_str!("../../config-examples/static-demo.yml");
    serde_yaml::from_str(text).unwrap()
}

#[test]
fn it_has_what_the_demonstrations_configuration_names() {
    let by_hand = ByHand::start();
    let provider = &static_demo()["provider"];
    assert_eq!(provider["rootURL"], "http://127.0.0.1:8085");
    for key in ["workerPoolID", "workerGroup", "workerID", "providerID", "staticSecret"] {
        let value = provider[key].as_str().unwrap();
        let told = by_hand.greeting.lines().any(|line| line.split_whitespace().eq([key, value]));
        assert!(told, "{key} {value}: {}", by_hand.greeting);
    }
    let answer = by_hand.register();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json().unwrap()["workerConfig"]["command"]["config"]["deploymentId"], "d1");
    assert_eq!(by_hand.line("200 "), "200 registerWorker POST /api/worker-manager/v1/worker/register");
}

#[test]
fn it_is_changed_over_http_while_it_runs() {
    let by_hand = ByHand::start();
    assert_eq!(by_hand.post("/fake/deployment/demo/linux", &json!({"deploymentId": "d2"})).status, 200);
    let answer = by_hand.register().json().unwrap();
    assert_eq!(answer["workerConfig"]["command"]["config"]["deploymentId"], "d2");
    assert_eq!(answer["workerConfig"]["command"]["config"]["greeting"], "from the pool");
    let fail = json!({"call": "registerWorker", "times": 2, "fault": "bad-gateway"});
    assert_eq!(by_hand.post("/fake/fail", &fail).status, 200);
    let statuses: Vec<u16> = (0..3).map(|_| by_hand.register().status).collect();
    assert_eq!(statuses, [502, 502, 200]);
    by_hand.post("/fake/fail", &json!({"fault": "internal-error", "times": 0}));
    assert_eq!(by_hand.register().status, 500);
    assert!(by_hand.line("500 ").contains("InternalServerError"));
    by_hand.post("/fake/clear", &json!({}));
    assert_eq!(by_hand.register().status, 200);
    assert_eq!(by_hand.post("/fake/secret/x", &json!({"config": {}})).status, 200);
    let terminate = json!({"terminate": true, "reason": "over capacity"});
    assert_eq!(by_hand.post("/fake/terminate/demo/linux/here/demo-worker", &terminate).status, 200);
    assert_eq!(by_hand.post("/fake/pool/demo/new", &json!({"config": {}})).status, 200);
    let requests = Request::new("GET", "/fake/requests").send(by_hand.address).unwrap().json().unwrap();
    assert_eq!(requests.as_array().unwrap().len(), 6);
    for (path, body) in
        [("nonsense", json!({})), ("fail", json!({"fault": "x"})), ("deployment/no/pool", json!({}))]
    {
        let answer = by_hand.post(&format!("/fake/{path}"), &body);
        assert_eq!(answer.status, 400, "{path}");
        assert!(String::from_utf8(answer.body).unwrap().contains("POST /fake/fail"));
    }
}
